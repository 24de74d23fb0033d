-- JWT verification (RS256, ES256) with OpenSSL through LuaJIT's FFI, as lua-resty-openssl does it.
-- One digest context and one parsed key are kept for the life of the worker.
local ffi = require "ffi"
local cjson = require "cjson.safe"
local base64 = require "ngx.base64"

ffi.cdef [[
typedef struct bio_st BIO;
typedef struct evp_pkey_st EVP_PKEY;
typedef struct evp_pkey_ctx_st EVP_PKEY_CTX;
typedef struct evp_md_st EVP_MD;
typedef struct evp_md_ctx_st EVP_MD_CTX;
BIO *BIO_new_mem_buf(const void *buf, int len);
int BIO_free(BIO *a);
EVP_PKEY *PEM_read_bio_PUBKEY(BIO *bp, EVP_PKEY **x, void *cb, void *u);
const EVP_MD *EVP_sha256(void);
EVP_MD_CTX *EVP_MD_CTX_new(void);
int EVP_MD_CTX_reset(EVP_MD_CTX *ctx);
int EVP_DigestVerifyInit(EVP_MD_CTX *ctx, EVP_PKEY_CTX **pctx, const EVP_MD *type, void *e, EVP_PKEY *pkey);
int EVP_DigestVerify(EVP_MD_CTX *ctx, const unsigned char *sig, size_t siglen, const unsigned char *tbs, size_t tbslen);
]]
local crypto = ffi.C

local Verifier = {}
Verifier.__index = Verifier

local function read(path)
    local file = assert(io.open(path, "rb"))
    local text = file:read("*a")
    file:close()
    return text
end

local function new(key_path, algorithm, issuer, audience)
    local pem = read(key_path)
    local bio = crypto.BIO_new_mem_buf(pem, #pem)
    local key = crypto.PEM_read_bio_PUBKEY(bio, nil, nil, nil)
    crypto.BIO_free(bio)
    assert(key ~= nil, "no public key in " .. key_path)
    return setmetatable({
        key = key, context = crypto.EVP_MD_CTX_new(), digest = crypto.EVP_sha256(),
        algorithm = algorithm, issuer = issuer, audience = audience, headers = {},
    }, Verifier)
end

-- An unsigned big-endian number as DER INTEGER.
local function der_integer(bytes)
    bytes = bytes:gsub("^%z+", "")
    if bytes == "" then bytes = "\0" end
    if bytes:byte(1) >= 0x80 then bytes = "\0" .. bytes end
    return "\2" .. string.char(#bytes) .. bytes
end

-- RFC 7518 3.4: r and s side by side; OpenSSL wants a SEQUENCE of them.
local function der_signature(raw)
    if #raw ~= 64 then return nil end
    local body = der_integer(raw:sub(1, 32)) .. der_integer(raw:sub(33))
    return "\48" .. string.char(#body) .. body
end

local function names(aud, wanted)
    if aud == wanted then return true end
    if type(aud) == "table" then
        for _, one in ipairs(aud) do
            if one == wanted then return true end
        end
    end
    return false
end

-- The claims of a good token, else nil.
function Verifier:verify(token)
    local first = token:find(".", 1, true)
    local second = first and token:find(".", first + 1, true)
    if not second then return nil end
    local head = token:sub(1, first - 1)
    -- Equal headers are parsed once; the table is bounded by what was accepted.
    if self.headers.last ~= head then
        local text = base64.decode_base64url(head)
        local header = text and cjson.decode(text)
        if type(header) ~= "table" or header.alg ~= self.algorithm or header.crit ~= nil then return nil end
        self.headers.last = head
    end
    local signature = base64.decode_base64url(token:sub(second + 1))
    if signature and self.algorithm == "ES256" then signature = der_signature(signature) end
    if not signature then return nil end
    local context = self.context
    crypto.EVP_MD_CTX_reset(context)
    if crypto.EVP_DigestVerifyInit(context, nil, self.digest, nil, self.key) ~= 1
        or crypto.EVP_DigestVerify(context, signature, #signature, token, second - 1) ~= 1 then
        return nil
    end
    local text = base64.decode_base64url(token:sub(first + 1, second - 1))
    local claims = text and cjson.decode(text)
    if type(claims) ~= "table" or claims.iss ~= self.issuer or not names(claims.aud, self.audience)
        or type(claims.exp) ~= "number" or claims.exp <= ngx.time() then
        return nil
    end
    return claims
end

return { new = new }
