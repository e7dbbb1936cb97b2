// Calls of the official Node client and of the Vercel AI SDK. Each line of the input asks for one, as JSON: its name,
// the gateway's address and key, and what else it needs; a line of the output says what came of it. So one process makes
// them all: to load the packages takes longer than the calls.

import { createInterface } from "node:readline";

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embed, generateImage, generateText, streamText } from "ai";
import OpenAI, { toFile } from "openai";

const messages = [{ role: "user", content: "What is a gateway?" }];
const bytes = (base64) => Buffer.from(base64, "base64").length;

const callsOf = ({ url, apiKey, CHAT_MODEL, IMAGE_MODEL, VIDEO_MODEL, PICTURE }) => {
  const openai = new OpenAI({ apiKey, baseURL: `${url}/v1`, maxRetries: 0 });
  const compatible = createOpenAICompatible({ name: "gateway", apiKey, baseURL: `${url}/v1/openai` });
  const vercel = createOpenAI({ apiKey, baseURL: `${url}/v1` });
  const picture = () => toFile(Buffer.from(PICTURE, "base64"), "a.png", { type: "image/png" });

  return {
    async openai_chat() {
      const answer = await openai.chat.completions.create({ model: CHAT_MODEL, messages, max_tokens: 8 });
      return { text: answer.choices[0].message.content, tokens: answer.usage.completion_tokens };
    },
    async openai_chat_stream() {
      const stream = await openai.chat.completions.create({ model: "gpt-4o-mini", messages, stream: true });
      let text = "", withoutChoices = 0;
      for await (const chunk of stream) {
        if (chunk.choices.length) text += chunk.choices[0].delta.content ?? "";
        else withoutChoices += 1;
      }
      return { text, withoutChoices };
    },
    async openai_images() {
      const made = await openai.images.generate({ model: IMAGE_MODEL, prompt: "A lantern", size: "256x256" });
      const edited = await openai.images.edit({
        model: "gpt-image-2", image: [await picture(), await picture()], prompt: "In blue",
      });
      return { bytes: bytes(made.data[0].b64_json), link: made.data[0].url, edited: bytes(edited.data[0].b64_json) };
    },
    async openai_videos() {
      let video = await openai.videos.create({ model: VIDEO_MODEL, prompt: "A cat" });
      while (!["completed", "failed"].includes(video.status)) {
        await new Promise((resolve) => setTimeout(resolve, 50));
        video = await openai.videos.retrieve(video.id);
      }
      const content = await openai.videos.downloadContent(video.id);
      const clip = Buffer.from(await content.arrayBuffer());
      return { status: video.status, brand: clip.subarray(4, 8).toString() };
    },
    async openai_sound() {
      const spoken = await openai.audio.speech.create({
        model: "tts-1", voice: "alloy", input: "Good morning", response_format: "wav",
      });
      const sound = Buffer.from(await spoken.arrayBuffer());
      const file = await toFile(sound, "a.wav");
      const transcript = await openai.audio.transcriptions.create({ model: "whisper-1", file });
      return { sound: sound.length, text: transcript.text };
    },
    async openai_rest() {
      const vectors = await openai.embeddings.create({ model: "text-embedding-3-small", input: "one", dimensions: 16 });
      const verdict = await openai.moderations.create({ input: "I will kill you" });
      const models = [];
      for await (const model of openai.models.list()) models.push(model.id);
      return {
        dimensions: vectors.data[0].embedding.length,
        flagged: verdict.results[0].flagged,
        isListed: models.includes(CHAT_MODEL),
        retrieved: (await openai.models.retrieve("openai/dall-e-3")).id,
      };
    },
    async openai_errors() {
      const codes = [];
      for (const body of [{ model: "no/such", messages }, { model: CHAT_MODEL, messages: [] }]) {
        await openai.chat.completions.create(body)
          .catch((error) => codes.push([error.status, error.code, error.param]));
      }
      return { codes };
    },
    async vercel_compatible_chat() {
      const model = compatible(CHAT_MODEL);
      const whole = await generateText({ model, prompt: "What is a gateway?", maxOutputTokens: 8, maxRetries: 0 });
      const stream = streamText({ model, prompt: "What is a gateway?", maxOutputTokens: 8, maxRetries: 0 });
      let streamed = "";
      for await (const piece of stream.textStream) streamed += piece;
      return { text: whole.text, tokens: whole.usage.outputTokens, streamed, reason: await stream.finishReason };
    },
    async vercel_compatible_image_and_vector() {
      const { image } = await generateImage({
        model: compatible.imageModel(IMAGE_MODEL), prompt: "A lantern", size: "256x256", maxRetries: 0,
      });
      const edited = await generateImage({
        model: compatible.imageModel("gpt-image-2"),
        prompt: { text: "In blue", images: [Buffer.from(PICTURE, "base64")] },
        maxRetries: 0,
      });
      const { embedding } = await embed({
        model: compatible.textEmbeddingModel("text-embedding-3-small"), value: "one",
      });
      return { bytes: bytes(image.base64), edited: bytes(edited.image.base64), dimensions: embedding.length };
    },
    async vercel_openai_chat_and_image() {
      const chat = await generateText({
        model: vercel.chat("gpt-4o-mini"), prompt: "What is a gateway?", maxRetries: 0,
      });
      const { image } = await generateImage({
        model: vercel.image("dall-e-3"), prompt: "A lantern", size: "1024x1024", maxRetries: 0,
      });
      return { text: chat.text, bytes: bytes(image.base64) };
    },
    async vercel_openai_responses() {
      const model = vercel.responses("gpt-4o-mini");
      const whole = await generateText({ model, prompt: "What is a gateway?", maxRetries: 0 });
      const stream = streamText({ model, prompt: "What is a gateway?", maxRetries: 0 });
      let streamed = "";
      for await (const piece of stream.textStream) streamed += piece;
      return { text: whole.text, streamed };
    },
  };
};

for await (const line of createInterface({ input: process.stdin })) {
  const { name, ...settings } = JSON.parse(line);
  let outcome;
  try {
    outcome = { result: await callsOf(settings)[name]() };
  } catch (error) {
    outcome = { error: error.stack ?? String(error) };
  }
  console.log(JSON.stringify(outcome));
}
