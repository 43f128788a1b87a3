// Calls with OpenAI's SDK, one after another: node openai.mjs '[{"call": "generate", "order": {…}}, …]'
// An edit names its files: {"call": "edit", "upload": "stream", "image": "a.png", "mask": "b.png", "order": {…}}.
// Prints a JSON list of what came of each. Address and key come from OPENAI_BASE_URL and OPENAI_API_KEY.
import fs from 'node:fs'
import OpenAI, { toFile } from 'openai'

const uploads = {
  stream: async (path) => fs.createReadStream(path),
  buffer: async (path) => toFile(fs.readFileSync(path), 'photo.png', { type: 'image/png' }),
  list: async (path) => [await toFile(fs.readFileSync(path), 'photo.png', { type: 'image/png' })],
}

let statuses
const client = new OpenAI({
  fetch: async (...request) => {
    const answer = await fetch(...request)
    // Before its first form the SDK asks for a data: URL, to see what fetch can do.
    if (answer.url.startsWith('http')) statuses.push(answer.status)
    return answer
  },
})

async function called({ call, upload, image, mask, order }) {
  if (call === 'models') return { names: (await client.models.list()).data.map((model) => model.id) }
  if (call === 'generate') return client.images.generate(order)
  // The files come first, so that the image is on its way before the order is known.
  const files = { image: await uploads[upload](image) }
  if (mask) files.mask = await uploads[upload](mask)
  return client.images.edit({ ...files, ...order })
}

const outcomes = []
for (const request of JSON.parse(process.argv[2])) {
  statuses = []
  try {
    const answer = await called(request)
    outcomes.push({ ...answer, request_id: answer._request_id, statuses })
  } catch (error) {
    const { status, code, type, param, requestID, message } = error
    outcomes.push({ error: error.constructor.name, status, code, type, param, request_id: requestID, message, statuses })
  }
}
console.log(JSON.stringify(outcomes))
