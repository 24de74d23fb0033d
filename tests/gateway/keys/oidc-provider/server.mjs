// A real OpenID provider (npm oidc-provider) for the tests: https, JWT access tokens for a client, keys that rotate,
// and opaque access tokens for a resource of its own, which are introspected and revoked here.
//
//   node server.mjs ADDRESS PORT CERTIFICATE KEY MODULES
//
// POST /rotate/STEP makes it go on with other keys, as an operator would restart it: `publish` adds a key that nothing
// is signed with yet, `switch` signs with it, `retire` publishes it alone, `surprise` replaces all keys at once.

import fs from "node:fs";
import https from "node:https";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [, , host, port, certificate, key, modules] = process.argv;
const load = createRequire(pathToFileURL(modules + "/"));
const { Provider } = await import(pathToFileURL(load.resolve("oidc-provider")));
const issuer = `https://localhost:${port}`;

let made = 0;
async function freshKey() {
    const algorithm = { name: "ECDSA", namedCurve: "P-256" };
    const { privateKey } = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
    const { kty, crv, x, y, d } = await crypto.subtle.exportKey("jwk", privateKey);
    made += 1;
    return { kty, crv, x, y, d, kid: `key-${made}`, use: "sig", alg: "ES256" };
}

function handler(keys) {
    const provider = new Provider(issuer, {
        jwks: { keys },
        clients: [
            {
                client_id: "robot",
                client_secret: "a secret of the robot that is long enough",
                grant_types: ["client_credentials"],
                redirect_uris: [],
                response_types: [],
                id_token_signed_response_alg: "ES256",
            },
            {
                // Who asks about opaque tokens.
                client_id: "gateway",
                client_secret: "a secret of the gateway that is long enough",
                grant_types: [],
                redirect_uris: [],
                response_types: [],
                id_token_signed_response_alg: "ES256",
            },
        ],
        features: {
            clientCredentials: { enabled: true },
            devInteractions: { enabled: false },
            introspection: { enabled: true },
            revocation: { enabled: true },
            resourceIndicators: {
                enabled: true,
                getResourceServerInfo: (_context, resource) => ({
                    audience: resource,
                    scope: "orders.read",
                    accessTokenFormat: resource.endsWith(":opaque") ? "opaque" : "jwt",
                    accessTokenTTL: 3600,
                    jwt: { sign: { alg: "ES256" } },
                }),
            },
        },
    });
    return provider.callback();
}

let keys = [await freshKey()];
let current = handler(keys);
const steps = {
    publish: async () => [keys[0], await freshKey()],
    switch: async () => [keys[1], keys[0]],
    retire: async () => [keys[0]],
    surprise: async () => [await freshKey()],
};

async function serve(request, response) {
    const step = request.method === "POST" && request.url.startsWith("/rotate/") && steps[request.url.slice(8)];
    if (!step) {
        current(request, response);
        return;
    }
    keys = await step();
    current = handler(keys);
    response.end(keys[0].kid);
}

const options = { cert: fs.readFileSync(certificate), key: fs.readFileSync(key) };
https.createServer(options, serve).listen(Number(port), host);
