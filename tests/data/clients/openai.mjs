// Calls with OpenAI's SDK: a line of JSON in, a line of JSON out. Each line is a list of calls that are made at once:
// [{"call": "generate", "order": {…}}, …]. An edit names its files:
// {"call": "edit", "upload": "stream", "image": "a.png", "mask": "b.png", "order": {…}}.
// Address and key come from OPENAI_BASE_URL and OPENAI_API_KEY, or stand with the call as base_url and key; it may have
// headers and a timeout in seconds. The answer is a list of what came of each.
import fs from 'node:fs'
import readline from 'node:readline'
import OpenAI, { toFile } from 'openai'

const uploads = {
  stream: async (path) => fs.createReadStream(path),
  buffer: async (path) => toFile(fs.readFileSync(path), 'photo.png', { type: 'image/png' }),
  list: async (path) => [await toFile(fs.readFileSync(path), 'photo.png', { type: 'image/png' })],
}

async function called(client, { call, upload, image, mask, order }) {
  if (call === 'models') return { names: (await client.models.list()).data.map((model) => model.id) }
  if (call === 'generate') return client.images.generate(order)
  // The files come first, so that the image is on its way before the order is known.
  const files = { image: await uploads[upload](image) }
  if (mask) files.mask = await uploads[upload](mask)
  return client.images.edit({ ...files, ...order })
}

async function outcome({ base_url, key, headers, timeout, ...request }) {
  const statuses = []
  const client = new OpenAI({
    ...(base_url && { baseURL: base_url }),
    ...(key && { apiKey: key }),
    ...(timeout && { timeout: timeout * 1000 }),
    defaultHeaders: headers,
    fetch: async (...request) => {
      const answer = await fetch(...request)
      // Before its first form the SDK asks for a data: URL, to see what fetch can do.
      if (answer.url.startsWith('http')) statuses.push(answer.status)
      return answer
    },
  })
  try {
    const answer = await called(client, request)
    return { ...answer, request_id: answer._request_id, statuses }
  } catch (error) {
    const { status, code, type, param, requestID, message } = error
    return { error: error.constructor.name, status, code, type, param, request_id: requestID, message, statuses }
  }
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await Promise.all(JSON.parse(line).map(outcome))))
}
