"""llama.cpp's server in a process of its own: ``serve_tiny_model.py MODEL`` prints its address when it serves."""

from __future__ import annotations

import socket
import sys


def main() -> None:
    """Serve until standard input is closed."""
    import xllamacpp  # type: ignore[import-untyped]  # it ships no types

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    parameters = xllamacpp.CommonParams()
    parameters.model.path = sys.argv[1]
    parameters.n_ctx = 1024
    parameters.n_parallel = 2
    parameters.cpuparams.n_threads = 1
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = port
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
