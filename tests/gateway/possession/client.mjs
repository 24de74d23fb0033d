// Asks for a URL with two client libraries. Prints the thumbprint of each key, reads the token that is bound to it from
// a line of its input, and prints what came of it.
import { createInterface } from 'node:readline/promises'
import * as oauth from 'oauth4webapi'
import * as dpop from 'dpop'

const [url, algorithm] = process.argv.slice(2)
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]()
const tokenFor = async (thumbprint) => {
  console.log(thumbprint)
  return (await lines.next()).value
}

// oauth4webapi reads the challenge and the nonce itself.
const handle = oauth.DPoP({}, await oauth.generateKeyPair(algorithm))
const token = await tokenFor(await handle.calculateThumbprint())
const ask = () =>
  oauth.protectedResourceRequest(token, 'GET', new URL(url), undefined, undefined, { DPoP: handle })
let asked = 0
for (let round = 0; round < 3; round++) {
  const answer = await ask().catch((error) => {
    if (!oauth.isDPoPNonceError(error)) throw error
    asked += 1
    return ask()
  })
  console.log(`oauth4webapi ${answer.status} ${(await answer.text()).trim()}`)
}
console.log(`asked for a nonce ${asked}`)

// dpop makes proofs, and nothing else.
const pair = await dpop.generateKeyPair(algorithm)
const other = await tokenFor(await dpop.calculateThumbprint(pair.publicKey))
const send = async (nonce) => {
  const proof = await dpop.generateProof(pair, url, 'GET', nonce, other)
  return fetch(url, { headers: { authorization: `DPoP ${other}`, dpop: proof } })
}
const first = await send()
const second = await send(first.headers.get('dpop-nonce') ?? undefined)
console.log(`dpop ${second.status} ${(await second.text()).trim()}`)
process.exit(0)
