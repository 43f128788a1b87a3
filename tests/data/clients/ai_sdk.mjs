// Calls of generateImage from the Vercel AI SDK, one after another: node ai_sdk.mjs '[{"provider": "openai", …}, …]'
// Each may have n, size, maxRetries, providerOptions, and for an edit the paths of an image and a mask. Prints a
// JSON list of what came of each. Address and key come from OPENAI_BASE_URL and OPENAI_API_KEY.
import fs from 'node:fs'
import { createOpenAI } from '@ai-sdk/openai'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { generateImage } from 'ai'

let statuses
const settings = {
  baseURL: process.env.OPENAI_BASE_URL,
  apiKey: process.env.OPENAI_API_KEY,
  fetch: async (...request) => {
    const answer = await fetch(...request)
    statuses.push(answer.status)
    return answer
  },
}
const providers = {
  openai: createOpenAI(settings),
  // For edits: the provider reads b64_json only, and does not ask for it.
  openai_asking: createOpenAI({
    ...settings,
    fetch: (url, init) => {
      if (init.body instanceof FormData) init.body.append('response_format', 'b64_json')
      return settings.fetch(url, init)
    },
  }),
  compatible: createOpenAICompatible({ name: 'gateway', ...settings }),
}

const outcomes = []
for (const { provider, image, mask, text, ...rest } of JSON.parse(process.argv[2])) {
  statuses = []
  const prompt = image
    ? { text, images: [fs.readFileSync(image)], ...(mask && { mask: fs.readFileSync(mask) }) }
    : text
  try {
    const { images } = await generateImage({ model: providers[provider].imageModel('dall-e-3'), prompt, ...rest })
    outcomes.push({ images: images.map((made) => made.base64), statuses })
  } catch (error) {
    outcomes.push({ error: error.name, message: error.message, statuses })
  }
}
console.log(JSON.stringify(outcomes))
