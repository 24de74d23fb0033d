-- A bearer token is verified on each request (jwt.lua).
local var = ngx.var
local header = var.http_authorization
local token = header and header:sub(1, 7) == "Bearer " and header:sub(8)
local claims = token and jwt:verify(token)
if not claims then
    return ngx.exit(401)
end
var.user_id = claims.sub
var.user_name = claims.name
var.user_email = claims.email
var.user_roles = table.concat(claims.roles, ",")
var.user_auth = "jwt"
