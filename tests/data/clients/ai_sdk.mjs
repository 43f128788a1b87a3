// Calls of generateImage from the Vercel AI SDK: a line of JSON in, a line of JSON out. Each line is a list of calls
// that are made at once: [{"provider": "openai", "text": "…"}, …]. Each may have n, size, maxRetries, headers,
// providerOptions, and for an edit the paths of an image and a mask. Address and key come from OPENAI_BASE_URL and
// OPENAI_API_KEY, or stand with the call as base_url and key. The answer is a list of what came of each.
import fs from 'node:fs'
import readline from 'node:readline'
import { createOpenAI } from '@ai-sdk/openai'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { generateImage } from 'ai'

const providers = {
  openai: (settings) => createOpenAI(settings),
  // For edits: the provider reads b64_json only, and does not ask for it.
  openai_asking: (settings) =>
    createOpenAI({
      ...settings,
      fetch: (url, init) => {
        if (init.body instanceof FormData) init.body.append('response_format', 'b64_json')
        return settings.fetch(url, init)
      },
    }),
  compatible: (settings) => createOpenAICompatible({ name: 'gateway', ...settings }),
}

async function outcome({ provider, base_url, key, model = 'dall-e-3', image, mask, text, ...rest }) {
  const statuses = []
  const { imageModel } = providers[provider]({
    baseURL: base_url ?? process.env.OPENAI_BASE_URL,
    apiKey: key ?? process.env.OPENAI_API_KEY,
    fetch: async (...request) => {
      const answer = await fetch(...request)
      statuses.push(answer.status)
      return answer
    },
  })
  const prompt = image
    ? { text, images: [fs.readFileSync(image)], ...(mask && { mask: fs.readFileSync(mask) }) }
    : text
  try {
    const { images } = await generateImage({ model: imageModel(model), prompt, ...rest })
    return { images: images.map((made) => made.base64), statuses }
  } catch (error) {
    const last = error.lastError ?? error // what it says after its last try holds what the last one was told
    return {
      error: error.name, message: error.message, statuses,
      status: last.statusCode, code: last.data?.error?.code,
    }
  }
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await Promise.all(JSON.parse(line).map(outcome))))
}
