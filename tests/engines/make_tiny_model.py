"""Makes ``tiny.gguf``: a llama with random weights and a vocabulary of words, half a megabyte, for a real engine.

Run by hand, with ``gguf`` and ``numpy`` installed: ``python tests/engines/make_tiny_model.py``. It says nothing
sensible, but says it through a real tokenizer, sampler and server. The seed makes it the same each time. The row of the
end of text is zero in the output, so that only ``max_tokens`` ends an answer.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

WIDTH, LAYERS, HEADS, HIDDEN, CONTEXT = 64, 2, 2, 128, 512
#: The roles are words too, so that a prompt has about as many tokens as words.
VOCABULARY = """
user assistant system a an and at bank book bridge by clear clock cloud day door down east far field fire from gate hill
house in is it lamp leaf light long moon morning near night of on open over path rain river road room sea ship slow
small snow so star stone storm sun table the then there to town tree under up wall water west wind window with wood
"""
WORDS = tuple(dict.fromkeys(f"▁{word}" for word in VOCABULARY.split()))
#: The tokenizer joins two neighbours at a time, so every beginning of a word is a token too, and every letter.
BEGINNINGS = tuple(
    dict.fromkeys(word[:end] for word in WORDS for end in range(1, len(word)) if word[:end] not in WORDS)
)
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
FIRST_WORD = 3 + 256  # after <unk>, <s>, </s> and one token for each byte


def main() -> None:
    """Write the file beside this one."""
    # By name, so that the type checker does not look for what only this script needs.
    gguf: Any = import_module("gguf")
    np: Any = import_module("numpy")

    kinds = gguf.TokenType
    pieces = (*WORDS, *BEGINNINGS, *LETTERS)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256, *[kinds.NORMAL] * len(pieces)]
    scores = [0.0] * 3 + [-1000.0] * 256 + [float(len(piece)) for piece in pieces]  # the longest join goes first
    random = np.random.default_rng(20261122)

    def weights(*shape: int, scale: float = 0.3) -> Any:
        return (random.standard_normal(shape) * scale).astype(np.float32)

    writer = gguf.GGUFWriter(Path(__file__).with_name("tiny.gguf"), "llama")
    writer.add_name("bitmesh-tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(0)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types([int(kind) for kind in types])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(
        "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} {% endfor %}assistant"
    )
    output = weights(len(tokens), WIDTH, scale=0.8)
    output[:FIRST_WORD] *= 0.02  # whole words are what it says
    output[FIRST_WORD + len(WORDS) :] *= 0.02
    output[2] = 0
    writer.add_tensor("token_embd.weight", weights(len(tokens), WIDTH, scale=1.0))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    writer.add_tensor("output.weight", output)
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"{block}{name}.weight", weights(WIDTH, WIDTH))
        writer.add_tensor(f"{block}ffn_gate.weight", weights(HIDDEN, WIDTH))
        writer.add_tensor(f"{block}ffn_up.weight", weights(HIDDEN, WIDTH))
        writer.add_tensor(f"{block}ffn_down.weight", weights(WIDTH, HIDDEN))
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{block}{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
