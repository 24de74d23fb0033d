-- The session cookie is looked up in shared memory; entries carry their expiry.
local sessions = ngx.shared.sessions
local var = ngx.var
local token = var["cookie___Host-portcullis"]
local found = token and sessions:get(token)
if not found then
    return ngx.exit(401)
end
local tab = string.char(9)
local first = found:find(tab, 1, true)
local second = found:find(tab, first + 1, true)
local third = found:find(tab, second + 1, true)
var.user_id = found:sub(1, first - 1)
var.user_name = found:sub(first + 1, second - 1)
var.user_email = found:sub(second + 1, third - 1)
var.user_roles = found:sub(third + 1)
var.user_auth = "session"
