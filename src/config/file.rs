//! The mirror of gateway.toml: what can be written, no more. Each field is a key, its documentation what it means;
//! whoever adds a key adds it here, in `build`, and in gateway.toml (a test compares). Defaults are in `build`.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use ipnet::IpNet;

use super::{
    decode::{
        At, CommaList, Decode, Flat, List, Named, OneOrMany, Section, Text, Tried, Unreadable, decode_table, table,
    },
    place::Place,
    report::{Findings, did_you_mean, one_of},
    requirement::{RequiredClaim, Rule},
    scalar::{
        ApiKeyId, AuthName, CertificateName, CheckPath, Claim, Color, CookieName, CorsOrigin, FilePath, Hsts, Json,
        LanguageTag, Location, LogLevel, Moment, Name, NameServer, NonEmpty, Number, Origin, OutboundProxy,
        PasswordHash, PathPrefix, PathTemplate, Positive, Prefix, Rate, RequestLine, RequestRate, RoutePath, ServerUrl,
        Sha256, Sink, Size, TrustedProxy, Workers, choices,
    },
    tree::{Node, Value},
};
use crate::{
    acme::{ChallengeKind, Directory, KeyType},
    admin::Scope,
    authn::{dpop::NonceRule, introspection::ClientAuth, keys::Algorithm},
    edge::{Group, MinVersion},
    fetch,
    headers::{ClientCertificates, ForwardedFamily, Profile},
    host::Host,
    listener::Listener,
    mtls::SubjectFrom,
    page,
    policy::ProofRule,
    refusal::Refusal,
    session::{Bind, SameSite},
    telemetry::{LogFormat, QueryLog},
    token::Grant,
    upstream::{Balance, HostPolicy, Sticky},
};

table! {
    /// A whole gateway.toml.
    struct File {
        /// Of this format.
        #[expect(dead_code, reason = "to decode it is to check it")]
        version: Tried<Option<Number<1, 1>>>,
        /// Further files with `[upstream.*]`, `[[route]]` and `[[test]]`; `*` in the last component only.
        include: Tried<Vec<At<NonEmpty>>>,
        /// Listeners, hosts, workers.
        server: Tried<Section<Server>>,
        /// Certificates.
        tls: Tried<Option<At<Tls>>>,
        /// Bounds of connections and requests.
        limits: Tried<Section<Limits>>,
        /// What is logged, and where.
        log: Tried<Section<Log>>,
        /// Metrics and health.
        telemetry: Tried<Option<At<Telemetry>>>,
        /// The admin API.
        admin: Tried<Option<At<Admin>>>,
        /// Sessions and their cookie.
        session: Tried<Section<Session>>,
        /// Who signs bearer tokens.
        jwt: Tried<Section<Jwt>>,
        /// Proofs that whoever sends a token may use it.
        dpop: Tried<Section<Dpop>>,
        /// Keys of programs.
        api_key: Tried<List<ApiKey>>,
        /// Client certificates.
        mtls: Tried<Section<Mtls>>,
        /// Tokens of our own.
        token: Tried<Option<At<Token>>>,
        /// Where people log in.
        login: Tried<Section<Login>>,
        /// Error pages of the operator's own, by status.
        pages: Tried<Pages>,
        /// The users of the only provider.
        user: Tried<List<User>>,
        /// How upstreams learn who is calling.
        identity: Tried<Section<Identity>>,
        /// Hosts that serve nobody for a while.
        maintenance: Tried<Option<At<Maintenance>>>,
        /// Where permitted requests go.
        upstream: Tried<Named<Upstream>>,
        /// What every route starts from.
        route_defaults: Tried<Section<RouteOptions>>,
        /// What is served, to whom.
        route: Tried<List<Route>>,
        /// What `portcullis check` asks of the routes.
        test: Tried<List<Test>>,
    }

    /// A file that `include` names.
    struct Fragment {
        /// Where permitted requests go.
        upstream: Tried<Named<Upstream>>,
        /// What is served, to whom.
        route: Tried<List<Route>>,
        /// What `portcullis check` asks of the routes.
        test: Tried<List<Test>>,
    }

    /// `[server]`.
    struct Server {
        /// Where clients connect.
        listen: At<CommaList<Listener>>,
        /// Where plain HTTP is answered with a redirect to https.
        redirect_http: Option<std::net::SocketAddr>,
        /// The hosts that are served; those of routes count too.
        hosts: Vec<At<Host>>,
        /// Whose forwarding headers are believed (R15).
        trusted_proxies: Vec<At<TrustedProxy>>,
        /// Name servers that are asked instead of the system's.
        resolvers: Vec<At<NameServer>>,
        /// Who says by the PROXY protocol whose connection it is, and must (R15).
        proxy_protocol_from: Vec<At<IpNet>>,
        /// Which family of forwarding headers they send.
        forwarded_headers: Option<ForwardedFamily>,
        /// In which API keys come, beside `Authorization: Bearer`.
        api_key_header: Option<At<HeaderName>>,
        /// What happens to header names outside `[A-Za-z0-9-]` (R12).
        odd_header_names: Option<OddNames>,
        /// Threads.
        workers: Option<Workers>,
        /// Where sessions and other state survive a restart.
        state_dir: Option<At<FilePath>>,
        /// The keys that state is sealed with, the newest first.
        state_key_file: Option<At<FilePath>>,
        /// How long a login or logout waits for the disk.
        state_timeout: Option<At<Positive>>,
        /// Where a process that is to follow this one asks for everything.
        upgrade_socket: Option<At<FilePath>>,
        /// How long requests may take to finish when the gateway stops.
        drain_timeout: Option<Duration>,
        /// `Strict-Transport-Security`.
        hsts: Option<Hsts>,
        /// The way to other people's servers, for what the gateway itself asks of them.
        outbound_proxy: Option<At<OutboundProxy>>,
        /// Whether a change of one of the files is a reload (R37).
        watch: Option<bool>,
    }

    /// `[tls]`.
    struct Tls {
        /// Chains and keys, chosen by SNI.
        certificates: Vec<CertificateFiles>,
        /// Names of a certificate from a local authority, made at first start.
        self_signed: Option<Vec<CertificateName>>,
        /// The oldest version spoken.
        min_version: Option<MinVersion>,
        /// Key exchange groups, the preferred first.
        groups: Option<At<Vec<Group>>>,
        /// Certificates that are ordered from an authority (RFC 8555).
        acme: Option<At<Acme>>,
    }

    /// `[tls.acme]`.
    struct Acme {
        /// The authority's directory.
        directory: Option<At<Directory>>,
        /// Whether its terms were agreed to.
        terms_agreed: Option<At<bool>>,
        /// Whom the authority may write to.
        contact: Vec<At<NonEmpty>>,
        /// For whom; those of `server.hosts` and routes if it is not written.
        hosts: Option<At<Vec<At<Host>>>>,
        /// How hosts are proved, the preferred first.
        challenge: Option<OneOrMany<ChallengeKind>>,
        /// Authorities that the directory's own certificate may come from.
        ca: Option<At<FilePath>>,
        /// An account elsewhere that ours is bound to.
        external_account: Option<At<ExternalAccount>>,
        /// Of certificates.
        key_type: Option<KeyType>,
        /// How long before its end a certificate is renewed.
        renew_before: Option<At<Positive>>,
        /// The wait after the first failure in a row.
        retry: Option<At<Positive>>,
    }

    /// `external_account` of `[tls.acme]`.
    struct ExternalAccount {
        /// The key's id.
        id: NonEmpty,
        /// The HMAC key, in base64url.
        key: At<Secret>,
    }

    /// An entry of `tls.certificates`.
    struct CertificateFiles {
        /// PEM, leaf first.
        cert: At<FilePath>,
        /// PEM.
        key: At<FilePath>,
    }

    /// `[limits]` (R19).
    struct Limits {
        /// TLS handshake.
        handshake_timeout: Option<Positive>,
        /// A whole request head, from its first byte.
        header_timeout: Option<Positive>,
        /// Between requests.
        idle_timeout: Option<Positive>,
        /// Of request bodies, over windows of `body_window`.
        body_min_rate: Option<Rate>,
        /// In waited time.
        body_window: Option<Positive>,
        /// Without a byte taken by the client.
        write_timeout: Option<Positive>,
        /// Of a request head.
        max_header_bytes: Option<Size<1024, 1_048_576>>,
        /// Fields of a request head.
        max_headers: Option<Number<8, 1000>>,
        /// Of a request body.
        max_body: Option<Size<0, { u64::MAX }>>,
        /// At once.
        max_connections: Option<Number<1, 10_000_000>>,
        /// At once from one address.
        max_connections_per_address: Option<Number<1, 10_000_000>>,
        /// HTTP/2 streams of one connection.
        max_streams: Option<Number<1, 10_000>>,
        /// Revocations in force.
        max_revocations: Option<Number<1, 100_000_000>>,
        /// Requests in a time, of all routes together.
        rate_limit: Option<RateLimit>,
        /// Requests at once, of all routes together.
        max_concurrent: Option<MaxConcurrent>,
        /// Callers whose rates are kept apart.
        max_rate_buckets: Option<Number<64, 100_000_000>>,
        /// API keys that the admin API has made.
        max_api_keys: Option<Number<1, 1_000_000>>,
        /// DPoP proofs remembered.
        max_proofs: Option<Number<1, 100_000_000>>,
        /// Verified tokens remembered.
        max_cached_tokens: Option<Number<0, 10_000_000>>,
        /// Bytes of them.
        max_cached_token_bytes: Option<Size<65_536, 1_099_511_627_776>>,
        /// Wrong signatures that are looked at, in a second and for one address.
        verify_rate: Option<Number<1, 1_000_000>>,
    }

    /// `[log]`.
    struct Log {
        /// Of lines.
        format: Option<LogFormat>,
        /// One line for each request.
        access: Option<At<Sink>>,
        /// Logins, logouts, revocations, administration.
        audit: Option<At<Sink>>,
        /// What of a request's query is logged.
        query: Option<QueryLog>,
        /// Of diagnostics.
        level: Option<LogLevel>,
        /// Bytes of lines that may wait for a slow reader.
        queue: Option<Size<65_536, 1_073_741_824>>,
    }

    /// `[telemetry]`.
    struct Telemetry {
        /// `/metrics`, `/livez`, `/readyz`.
        listen: At<Listener>,
    }

    /// `[admin]` (R36).
    struct Admin {
        /// Where.
        listen: At<Listener>,
        /// Who may ask for what.
        token: List<AdminToken>,
    }

    /// `[[admin.token]]`.
    struct AdminToken {
        /// In the audit log.
        name: At<Name>,
        /// Where the token is: exactly one of `file`, `env` and `generate`.
        source: Flat<SecretSource>,
        /// What it may do.
        allow: At<Vec<Scope>>,
        /// Of the sessions it opens and the API keys it makes.
        realm: Option<Name>,
        /// What these may hold.
        grants: Option<Grants>,
    }

    /// Where a secret is: exactly one key.
    struct SecretSource {
        /// The content of a file, without its last line end.
        file: Option<At<FilePath>>,
        /// The value of an environment variable.
        env: Option<At<NonEmpty>>,
        /// A file that is filled with random text at first start; only for trying things out (R35).
        generate: Option<At<FilePath>>,
    }

    /// `[session]`.
    struct Session {
        /// Its name.
        cookie: Option<At<CookieName>>,
        /// The cookie's `SameSite`.
        same_site: Option<SameSite>,
        /// What sessions are tied to.
        bind: Option<At<Bind>>,
        /// Unused this long, a session ends.
        idle_timeout: Option<At<Positive>>,
        /// However much used, a session ends.
        max_lifetime: Option<Positive>,
        /// All users together.
        max_sessions: Option<Number<1, 1_000_000_000>>,
        /// The oldest ends when one more opens.
        max_per_user: Option<Number<1, 1_000_000>>,
        /// Of one session's identity.
        max_session_bytes: Option<Size<256, 65_536>>,
    }

    /// `[[api_key]]`.
    struct ApiKey {
        /// In reports.
        name: At<Name>,
        /// The public part of its text.
        id: At<ApiKeyId>,
        /// SHA-256 of its text.
        sha256: At<Sha256>,
        /// What the subject and roles mean something in (R5).
        realm: Option<Name>,
        /// Who acts with it.
        subject: At<NonEmpty>,
        /// Roles.
        roles: Vec<NonEmpty>,
        /// Groups.
        groups: Vec<NonEmpty>,
        /// OAuth scopes.
        scopes: Vec<NonEmpty>,
        /// When it ends.
        expires: Option<Moment>,
        /// Whence it counts.
        from: Vec<IpNet>,
    }

    /// `[mtls]`.
    struct Mtls {
        /// Who signs client certificates.
        ca: List<MtlsCa>,
    }

    /// `[[mtls.ca]]`.
    struct MtlsCa {
        /// In `mtls:<name>`, logs and metrics.
        name: At<Name>,
        /// What subjects and roles mean something in (R5).
        realm: Option<Name>,
        /// The authorities' certificates, in PEM.
        file: At<FilePath>,
        /// Their revocation lists, in PEM or DER.
        crl: Option<OneOrMany<FilePath>>,
        /// Further hosts that ask for them, beside those with routes that name this.
        hosts: Vec<At<Host>>,
        /// Which name of a certificate is the subject.
        subject: SubjectFrom,
        /// Roles of every holder.
        roles: Vec<NonEmpty>,
        /// Groups of every holder.
        groups: Vec<NonEmpty>,
        /// OAuth scopes of every holder.
        scopes: Vec<NonEmpty>,
        /// Whether email addresses in certificates count as verified.
        trust_email: Option<bool>,
    }

    /// `[token]`.
    struct Token {
        /// Of ourselves, in `jwt:<name>`.
        name: Option<At<Name>>,
        /// The exact `iss`.
        issuer: At<NonEmpty>,
        /// Whom tokens are meant for, and so which are bearers here.
        audience: Option<OneOrMany<NonEmpty>>,
        /// What they are signed with.
        algorithm: Option<TokenAlgorithm>,
        /// Of an access token.
        lifetime: Option<At<Positive>>,
        /// Families of refresh tokens.
        max_families: Option<Number<1, 100_000_000>>,
        /// Who may ask.
        clients: Vec<At<TokenClient>>,
    }

    /// An entry of `token.clients`.
    struct TokenClientKeys {
        /// What it calls itself.
        id: At<Name>,
        /// How it may ask.
        grants: Option<Vec<TokenGrant>>,
        /// Whom its tokens are meant for.
        audience: Option<OneOrMany<NonEmpty>>,
        /// Whether to ask is activity of the session (R26).
        touch: Option<bool>,
    }

    /// `[jwt]`.
    struct Jwt {
        /// In which tokens come, beside `Authorization: Bearer`.
        cookie: Option<At<CookieName>>,
        /// In which tokens come, beside `Authorization: Bearer`.
        header: Option<At<HeaderName>>,
        /// Who signs bearer tokens.
        issuer: List<Issuer>,
    }

    /// `[dpop]` (RFC 9449).
    struct Dpop {
        /// Whether proofs hold a nonce of ours.
        nonce: Option<NonceRule>,
        /// With which proofs may be signed.
        algorithms: Option<At<Vec<Algorithm>>>,
    }

    /// `[[jwt.issuer]]`.
    struct Issuer {
        /// In `jwt:<name>`, logs and metrics.
        name: At<Name>,
        /// What subjects and roles mean something in (R5).
        realm: Option<Name>,
        /// The exact `iss`.
        issuer: At<NonEmpty>,
        /// Its keys; not needed of one that is asked.
        jwks: Option<At<KeySource>>,
        /// Where it is asked what tokens are that are no JWTs.
        introspection: Option<At<Introspection>>,
        /// Whom to believe when they are fetched.
        ca: Option<At<FilePath>>,
        /// Whom tokens must be meant for.
        audience: Option<OneOrMany<NonEmpty>>,
        /// Why tokens for anybody are accepted.
        insecure_any_audience: Option<At<NonEmpty>>,
        /// With which its keys may be used.
        algorithms: Option<At<Vec<Algorithm>>>,
        /// Where in the claims things are.
        claims: Section<ClaimNames>,
        /// What it may say of its subjects.
        grants: Option<Grants>,
        /// Tolerated difference of clocks.
        leeway: Option<At<Duration>>,
        /// Upper bound of `exp − iat`.
        max_token_life: Option<Positive>,
        /// What its tokens must say besides.
        required_claims: Vec<RequiredClaim>,
        /// Which tokens count; without it, those that name no type or call themselves a JWT do, too.
        token_type: Option<TokenType>,
        /// Whether ID tokens count.
        id_tokens: Option<At<bool>>,
        /// Whether emails count without `email_verified`.
        trust_email: Option<bool>,
        /// What all its tokens must be bound to.
        proof: Option<ProofRule>,
    }

    /// `introspection` of an issuer (RFC 7662).
    struct Introspection {
        /// Where.
        url: At<fetch::Url>,
        /// Who we are there.
        client_id: NonEmpty,
        /// And what proves it.
        client_secret: At<Secret>,
        /// How we say so.
        client_auth: Option<ClientAuth>,
        /// For one question.
        timeout: Option<At<Positive>>,
        /// How long an answer counts.
        remember: Option<At<Positive>>,
        /// Questions in a minute that one address may cause.
        rate: Option<Number<1, 1_000_000>>,
    }

    /// `claims` of an issuer.
    struct ClaimNames {
        /// The subject.
        subject: Option<Claim>,
        /// The display name.
        name: Option<Claim>,
        /// The email address.
        email: Option<Claim>,
        /// Roles: an array of strings.
        roles: Option<Claim>,
        /// Groups: an array of strings.
        groups: Option<Claim>,
        /// Scopes: a string with blanks, or an array.
        scopes: Option<Claim>,
    }

    /// `jwks` of an issuer: exactly one key.
    struct KeyFiles {
        /// Where a JWK set is fetched.
        url: Option<At<fetch::Url>>,
        /// A JWK set.
        file: Option<At<FilePath>>,
        /// A public key: PEM text, or the path of a file with it.
        pem: Option<At<NonEmpty>>,
        /// A shared secret for HS256, HS384, HS512.
        secret: Option<At<Secret>>,
    }

    /// `[login]`.
    struct Login {
        /// Of our own endpoints.
        prefix: Option<At<Prefix>>,
        /// What people know the place by.
        title: Option<NonEmpty>,
        /// A PNG or SVG in the place of our emblem.
        logo: Option<At<FilePath>>,
        /// Colours in light.
        colors: Option<At<Colors>>,
        /// Colours in dark.
        dark_colors: Option<At<Colors>>,
        /// For those who read none of the languages.
        language: Option<At<LanguageTag>>,
        /// Translations, by language tag.
        texts: Named<Texts>,
        /// Where people log in.
        provider: List<Provider>,
    }

    /// `colors` and `dark_colors` of `[login]`.
    struct Colors {
        /// Buttons and links.
        accent: Option<Color>,
        /// Behind the card.
        background: Option<Color>,
        /// The card.
        card: Option<Color>,
        /// Text on the card.
        text: Option<Color>,
    }

    /// `[[login.provider]]`.
    struct Provider {
        /// In logs and URLs.
        name: At<Name>,
        /// What people know it by.
        label: Option<NonEmpty>,
        /// What subjects and roles mean something in (R5).
        realm: Option<Name>,
        /// A file of `[[user]]` entries.
        users_file: Option<At<FilePath>>,
        /// Its users, in place.
        user: List<User>,
        /// What it may say of its users.
        grants: Option<UserGrants>,
        /// Whether its emails count as verified.
        trust_email: Option<bool>,
        /// Whoever asks to be remembered stays signed in this long.
        remember_me: Option<At<Positive>>,
    }

    /// A file that `users_file` names.
    struct UsersFile {
        /// The users.
        user: List<User>,
    }

    /// `[[user]]`.
    struct User {
        /// What is typed to log in.
        name: At<NonEmpty>,
        /// The stable subject.
        id: Option<NonEmpty>,
        /// argon2id, or where to find it.
        password: At<Password>,
        /// Shown to people and upstreams.
        display_name: Option<NonEmpty>,
        /// Also accepted to log in.
        email: Option<NonEmpty>,
        /// What is asked for besides the password.
        factor: Option<At<SecondFactor>>,
        /// Roles.
        roles: Vec<NonEmpty>,
        /// Groups.
        groups: Vec<NonEmpty>,
    }

    /// `[identity]`.
    struct Identity {
        /// The profile of header names.
        headers: Option<Profile>,
        /// Further headers from claims.
        extra: Named<Claim>,
        /// All identity headers together.
        max_bytes: Option<Size<256, 65_536>>,
        /// How subjects are told to upstreams.
        subject: Option<SubjectForm>,
        /// What they are told of client certificates.
        client_certificate: Option<ClientCertificates>,
        /// What they are told under our signature.
        assertion: Option<At<Assertion>>,
    }

    /// `identity.assertion`.
    struct Assertion {
        /// The header that carries it.
        header: Option<At<HeaderName>>,
        /// How long it counts.
        ttl: Option<At<Duration>>,
        /// Its `iss`.
        issuer: Option<NonEmpty>,
        /// Further members from claims.
        claims: Named<Claim>,
    }

    /// `[upstream.<name>]`.
    struct Upstream {
        /// Where it listens.
        servers: At<OneOrMany<UpstreamServer>>,
        /// Whether `https://` servers are offered HTTP/2.
        http2: Option<At<bool>>,
        /// How a server is chosen.
        balance: Option<Balance>,
        /// Whose requests all go to the same server.
        sticky: Option<Sticky>,
        /// What servers are asked from time to time.
        health: Option<At<Health>>,
        /// When requests that fail take a server out.
        eject: Option<Eject>,
        /// For how long the share of a server grows that came back.
        slow_start: Option<Duration>,
        /// When fewer of a hundred servers are in, all are asked.
        panic_threshold: Option<Number<0, 100>>,
        /// How TLS is spoken to it.
        tls: Option<At<UpstreamTls>>,
        /// The `Host` it is sent.
        host: Option<HostPolicy>,
        /// How it reads paths differently (R8).
        path_quirks: Vec<PathQuirk>,
        /// `aud` of the assertions that it is sent; its name if it is not written.
        assertion_audience: Option<At<NonEmpty>>,
        /// Until the connection stands.
        connect_timeout: Option<Positive>,
        /// To the first byte of the answer.
        response_timeout: Option<Positive>,
        /// Longest pause between two bytes of the answer.
        read_timeout: Option<Positive>,
        /// When requests are sent again.
        retries: Option<At<Retries>>,
        /// Requests at once, to all its servers together.
        max_requests: Option<Number<1, 1_000_000>>,
        /// Requests that wait for their turn.
        max_pending: Option<At<Number<0, 1_000_000>>>,
        /// How long they wait.
        queue_timeout: Option<At<Positive>>,
        /// How long an unused connection is kept.
        idle_timeout: Option<Positive>,
        /// Unused connections kept for each server and worker.
        max_idle: Option<Number<0, 100_000>>,
    }

    /// `tls` of an upstream.
    struct UpstreamTls {
        /// Certificate authorities that are believed.
        ca: Option<At<FilePath>>,
        /// A certificate that says who we are.
        certificate: Option<At<FilePath>>,
        /// Its key.
        key: Option<At<FilePath>>,
        /// The name that servers must have.
        server_name: Option<At<Host>>,
    }

    /// `health` of an upstream.
    struct Health {
        /// What is asked for.
        path: CheckPath,
        /// The `Host` it is sent; that of requests with `host`, else the server's own.
        host: Option<Host>,
        /// Between two checks.
        interval: Option<Positive>,
        /// For one of them.
        timeout: Option<Positive>,
        /// How many in a row bring a server in.
        healthy_after: Option<Number<1, 100>>,
        /// How many in a row take it out.
        unhealthy_after: Option<Number<1, 100>>,
        /// What is a good answer.
        status: Option<OneOrMany<StatusCode>>,
    }

    /// `eject` of an upstream.
    struct Eject {
        /// Failures in a row.
        failures: Option<Number<0, 1_000_000>>,
        /// Answers that are failures.
        statuses: Vec<StatusCode>,
        /// For how long, the first time.
        time: Option<Positive>,
        /// At most.
        max_time: Option<Positive>,
    }

    /// `[maintenance]`.
    struct Maintenance {
        /// Which hosts.
        hosts: MaintainedHosts,
        /// Addresses that are served all the same.
        except: Vec<At<IpNet>>,
        /// When to come again.
        retry_after: Option<Positive>,
    }

    /// `retries` of an upstream.
    struct Retries {
        /// How often one request is sent again at most.
        attempts: Option<Number<1, 10>>,
        /// Failures that are a reason.
        on: Option<Vec<RetryReason>>,
        /// Answers that are.
        statuses: Option<Vec<At<StatusCode>>>,
        /// Of a hundred requests, so many again.
        budget: Option<Number<0, 100>>,
        /// In a second, so many in any case.
        min_per_second: Option<Number<0, 100_000>>,
        /// What is waited before the first at most.
        backoff: Option<Duration>,
    }

    /// A server, written as a table.
    struct ServerKeys {
        /// Where it listens.
        url: ServerUrl,
        /// How many requests it gets, beside the others.
        weight: Option<Number<1, 1000>>,
    }

    /// What `[route_defaults]` and `[[route]]` share.
    struct RouteOptions {
        /// How one authenticates.
        auth: Option<At<Vec<At<AuthName>>>>,
        /// What tokens must be bound to, to count.
        proof: Option<At<ProofRule>>,
        /// Whether requests without a credential pass.
        optional: Option<At<bool>>,
        /// What must hold of the caller.
        require: Option<At<Require>>,
        /// Where it goes.
        upstream: Option<At<NonEmpty>>,
        /// Whose cross-site requests count (R31).
        csrf: Option<Csrf>,
        /// Who may read answers across origins (R32).
        cors: Option<At<Cors>>,
        /// `["websocket"]` (R17).
        upgrade: Option<Vec<Upgrade>>,
        /// Whether a verified `Authorization` goes upstream (R14).
        forward_credential: Option<At<bool>>,
        /// Whether a client's `Authorization` goes upstream, on public routes (R14).
        pass_authorization: Option<At<bool>>,
        /// Whether answers to known callers may be `public` (R16).
        cache: Option<Cache>,
        /// Whether requests count as activity (R26).
        touch: Option<bool>,
        /// Whether a download that has begun outlasts its session (R28).
        keep_downloads: Option<bool>,
        /// Whether trailers of requests go upstream (R18).
        request_trailers: Option<bool>,
        /// Of a request body.
        max_body: Option<Size<0, { u64::MAX }>>,
        /// Until a connection to the upstream stands.
        connect_timeout: Option<Positive>,
        /// To the upstream's first byte.
        response_timeout: Option<Positive>,
        /// Longest pause between two bytes of the answer.
        read_timeout: Option<Positive>,
        /// To the last byte of the answer; 0: as long as it takes.
        total_timeout: Option<Duration>,
        /// Whether what the upstream may have had is ever sent again.
        retry: Option<bool>,
        /// Requests in a time.
        rate_limit: Option<RateLimit>,
        /// Requests at once.
        max_concurrent: Option<MaxConcurrent>,
        /// Fields that the upstream gets, or does not.
        request_headers: Option<At<HeaderEdits>>,
        /// Fields that the client gets of the upstream's answer, or does not.
        response_headers: Option<At<HeaderEdits>>,
    }

    /// `request_headers` and `response_headers`.
    struct HeaderEdits {
        /// Exactly one field of the name, with this value.
        set: Named<HeaderValue>,
        /// None of the name.
        remove: Vec<At<HeaderName>>,
    }

    /// `rate_limit`: of whose requests so many in a time. Each may be several, which all hold.
    struct RateLimit {
        /// Of one caller, known or else by address.
        caller: Option<OneOrMany<RequestRate>>,
        /// Of one address.
        address: Option<OneOrMany<RequestRate>>,
        /// Of all.
        all: Option<OneOrMany<RequestRate>>,
    }

    /// `max_concurrent`: of whose requests so many at once.
    struct MaxConcurrent {
        /// Of one caller, known or else by address.
        caller: Option<Number<1, 1_000_000>>,
        /// Of one address.
        address: Option<Number<1, 1_000_000>>,
        /// Of all.
        all: Option<Number<1, 1_000_000>>,
    }

    /// `[[route]]`.
    struct Route {
        /// In logs, metrics and tests.
        name: At<Name>,
        /// Which requests.
        r#match: At<Match>,
        /// How, who, where and what else.
        options: Flat<RouteOptions>,
        /// Whether its rules are only reported yet.
        mode: Option<At<Mode>>,
        /// Upstreams with their weights.
        split: Option<At<Named<Number<0, 1_000_000>>>>,
        /// A fixed answer.
        respond: Option<At<Respond>>,
        /// A redirect.
        redirect: Option<At<Redirect>>,
        /// Segments that the upstream's paths do not have.
        strip_prefix: Option<At<PathPrefix>>,
        /// The path that the upstream gets.
        rewrite: Option<At<PathTemplate>>,
    }

    /// `mode` of a route.
    struct Mode {
        /// Until when whoever may not pass is let through and reported.
        report_until: At<Moment>,
    }

    /// `match` of a route.
    struct Match {
        /// Hosts; none: every known one.
        host: Option<OneOrMany<Host>>,
        /// Patterns.
        path: OneOrMany<RoutePath>,
        /// Methods; none: all.
        methods: Option<At<Vec<Method>>>,
    }

    /// `require` of a route: all parts must hold.
    struct Require {
        /// At least one holds.
        any: Option<At<Vec<At<Rule>>>>,
        /// All hold.
        all: Option<At<Vec<At<Rule>>>>,
        /// None holds.
        none: Option<At<Vec<At<Rule>>>>,
        /// The login is at most this long ago.
        max_auth_age: Option<Positive>,
        /// The login took as many factors.
        factor: Option<At<Number<1, 2>>>,
    }

    /// `csrf = { … }` of a route.
    struct CsrfOrigins {
        /// Further origins whose requests count.
        origins: Vec<Origin>,
    }

    /// `cors` of a route.
    struct Cors {
        /// Exact origins, or `*`.
        origins: At<Vec<CorsOrigin>>,
        /// Request headers beyond the safelisted.
        headers: Vec<HeaderName>,
        /// Response headers beyond the safelisted.
        expose: Vec<HeaderName>,
        /// Methods; none: those of the route.
        methods: Vec<Method>,
        /// Whether cookies are sent along.
        credentials: Option<At<bool>>,
        /// How long a preflight's answer is kept.
        max_age: Option<Duration>,
    }

    /// `respond` of a route.
    struct Respond {
        /// 200 to 599.
        status: StatusCode,
        /// Of the body.
        content_type: Option<HeaderValue>,
        /// The body.
        body: Option<String>,
    }

    /// `redirect = { … }` of a route.
    struct RedirectTo {
        /// Where to.
        to: Location,
        /// 301, 302, 303, 307 or 308.
        status: Option<RedirectStatus>,
        /// Whether the request's query is added.
        keep_query: Option<bool>,
    }

    /// `[[test]]`.
    struct Test {
        /// The request.
        request: At<RequestLine>,
        /// Who asks; nobody if it is not written.
        r#as: Option<At<As>>,
        /// What must come out.
        expect: At<Expect>,
    }

    /// `as` of a test.
    struct As {
        /// The subject.
        sub: NonEmpty,
        /// The display name.
        name: Option<NonEmpty>,
        /// The email address.
        email: Option<NonEmpty>,
        /// Whether it is verified.
        email_verified: Option<bool>,
        /// Roles.
        roles: Vec<NonEmpty>,
        /// Groups.
        groups: Vec<NonEmpty>,
        /// OAuth scopes.
        scopes: Vec<NonEmpty>,
        /// Further claims.
        claims: Named<Json>,
        /// The source's realm if it is not written.
        realm: Option<At<Name>>,
        /// `session`, `jwt`, `jwt:<name>`, `api_key`, `mtls` or `mtls:<name>`.
        via: Option<At<AuthName>>,
        /// Whether a valid client certificate came along, besides.
        certificate: Option<bool>,
        /// What the token is bound to, and proven to be.
        proof: Option<At<Bound>>,
        /// How long ago the person logged in.
        auth_age: Option<Duration>,
        /// How many factors that took.
        factor: Option<Number<1, 2>>,
    }

    /// `expect` of a test.
    struct Expect {
        /// The route's name.
        route: Option<At<Name>>,
        /// The status of our answer; 200 if the request is let through.
        status: Option<StatusCode>,
        /// Headers that the upstream is sent; an empty text: absent.
        headers: Named<String>,
    }
}

/// `proof` of `as`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bound {
    Nothing,
    Key,
    Certificate,
}
choices!(Bound { "none" => Self::Nothing, "dpop" => Self::Key, "mtls" => Self::Certificate, });

/// A failure after which a request may be sent again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum RetryReason {
    Connect,
    Reset,
    Timeout,
}
choices!(RetryReason { "connect" => Self::Connect, "reset" => Self::Reset, "timeout" => Self::Timeout, });

/// `factor` of a user.
#[derive(Clone, Copy, Debug)]
pub(super) enum SecondFactor {
    Totp,
}
choices!(SecondFactor { "totp" => Self::Totp, });

/// `token.algorithm`.
#[derive(Clone, Copy, Debug)]
pub(super) enum TokenAlgorithm {
    EdDsa,
    Es256,
}
choices!(TokenAlgorithm { "ES256" => Self::Es256, "EdDSA" => Self::EdDsa, });

/// An entry of a client's `grants`.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenGrant(pub(super) Grant);
choices!(TokenGrant {
    "session" => Self(Grant::Session),
    "password" => Self(Grant::Password),
    "api_key" => Self(Grant::ApiKey),
});

/// An entry of `token.clients`: its id, or a table.
#[derive(Clone, Debug)]
pub(super) struct TokenClient {
    pub(super) id: At<Name>,
    pub(super) grants: Option<Vec<TokenGrant>>,
    pub(super) audience: Option<OneOrMany<NonEmpty>>,
    pub(super) touch: Option<bool>,
}

impl Decode for TokenClient {
    fn expected() -> String {
        String::from("the id of a client, or { id, grants, audience, touch }")
    }

    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        if node.text().is_some() {
            let id = At::decode(node, findings)?;
            return Some(Self { id, grants: None, audience: None, touch: None });
        }
        let TokenClientKeys { id, grants, audience, touch } = decode_table(node, findings)?;
        Some(Self { id, grants, audience, touch })
    }

    fn keys(path: &str, keys: &mut Vec<String>) {
        <TokenClientKeys as Decode>::keys(path, keys);
    }
}

/// An entry of an upstream's `servers`: where it listens, or a table of that and more.
#[derive(Clone, Debug)]
pub(super) struct UpstreamServer {
    pub(super) url: ServerUrl,
    pub(super) weight: Option<Number<1, 1000>>,
}

impl Decode for UpstreamServer {
    fn expected() -> String {
        <ServerUrl as Text>::expected()
    }

    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        if node.entries().is_none() {
            return Some(Self { url: ServerUrl::decode(node, findings)?, weight: None });
        }
        let ServerKeys { url, weight } = decode_table(node, findings)?;
        Some(Self { url, weight })
    }

    fn keys(path: &str, keys: &mut Vec<String>) {
        <ServerKeys as Decode>::keys(path, keys);
    }
}

/// What happens to header names outside `[A-Za-z0-9-]`.
#[derive(Clone, Copy, Debug)]
pub(super) enum OddNames {
    Drop,
    Keep,
}
choices!(OddNames { "drop" => Self::Drop, "keep" => Self::Keep, });

choices!(SubjectFrom {
    "dns" => Self::Dns,
    "email" => Self::Email,
    "uri" => Self::Uri,
    "cn" => Self::CommonName,
});

impl Text for Directory {
    fn expected() -> String {
        format!("\"{}\", \"{}\" or an https URL", Self::LETS_ENCRYPT, Self::LETS_ENCRYPT_STAGING)
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        Self::new(text).map_err(|error| {
            Unreadable::because(match did_you_mean(text, [Self::LETS_ENCRYPT, Self::LETS_ENCRYPT_STAGING]) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => error.to_string(),
            })
        })
    }
}

choices!(ChallengeKind { "tls-alpn-01" => Self::TlsAlpn01, "http-01" => Self::Http01, });
choices!(KeyType { "ecdsa-p256" => Self::EcdsaP256, "ecdsa-p384" => Self::EcdsaP384, });
choices!(MinVersion { "1.2" => Self::Tls12, "1.3" => Self::Tls13, });
choices!(Group {
    "x25519mlkem768" => Self::X25519MlKem768,
    "secp256r1mlkem768" => Self::Secp256r1MlKem768,
    "x25519" => Self::X25519,
    "secp256r1" => Self::Secp256r1,
    "secp384r1" => Self::Secp384r1,
});

/// `token_type` of an issuer.
#[derive(Clone, Copy, Debug)]
pub(super) enum TokenType {
    AccessToken,
}
choices!(TokenType { "at+jwt" => Self::AccessToken, });

/// `identity.subject`.
#[derive(Clone, Copy, Debug)]
pub(super) enum SubjectForm {
    RealmSubject,
    Subject,
}
choices!(SubjectForm { "sub" => Self::Subject, "realm:sub" => Self::RealmSubject, });

/// An entry of `path_quirks`.
#[derive(Clone, Copy, Debug)]
pub(super) enum PathQuirk {
    CaseInsensitive,
    DoubleSlash,
    EncodedSlash,
    Semicolon,
    Suffix,
    TrailingSlash,
}
choices!(PathQuirk {
    "case_insensitive" => Self::CaseInsensitive,
    "double_slash" => Self::DoubleSlash,
    "encoded_slash" => Self::EncodedSlash,
    "semicolon" => Self::Semicolon,
    "suffix" => Self::Suffix,
    "trailing_slash" => Self::TrailingSlash,
});

/// An entry of `upgrade`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Upgrade {
    Websocket,
}
choices!(Upgrade { "websocket" => Self::Websocket, });

/// `cache`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cache {
    Private,
    Public,
}
choices!(Cache { "public" => Self::Public, "private" => Self::Private, });

/// Status of a redirect.
#[derive(Clone, Copy, Debug)]
pub(super) struct RedirectStatus(pub(super) StatusCode);

impl Decode for RedirectStatus {
    fn expected() -> String {
        String::from("301, 302, 303, 307 or 308")
    }

    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        let status = match &node.value {
            Value::Integer(301) => StatusCode::MOVED_PERMANENTLY,
            Value::Integer(302) => StatusCode::FOUND,
            Value::Integer(303) => StatusCode::SEE_OTHER,
            Value::Integer(307) => StatusCode::TEMPORARY_REDIRECT,
            Value::Integer(308) => StatusCode::PERMANENT_REDIRECT,
            Value::Array(_)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Environment(_)
            | Value::Float(_)
            | Value::Integer(_)
            | Value::String(_)
            | Value::Table(_) => {
                findings.problem(&node.place, node.describe(), Self::expected());
                return None;
            }
        };
        Some(Self(status))
    }
}

/// `redirect`: where to, with or without a status.
#[derive(Clone, Debug)]
pub(super) struct Redirect {
    pub(super) to: Location,
    pub(super) status: StatusCode,
    pub(super) keep_query: bool,
}

impl Decode for Redirect {
    fn expected() -> String {
        format!("{}, or {{ to, status, keep_query }}", <Location as Text>::expected())
    }

    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        if node.entries().is_none() {
            let to = Location::decode(node, findings)?;
            return Some(Self { to, status: StatusCode::FOUND, keep_query: false });
        }
        let RedirectTo { to, status, keep_query } = RedirectTo::decode(node, findings)?;
        let status = status.map_or(StatusCode::FOUND, |status| status.0);
        Some(Self { to, status, keep_query: keep_query.unwrap_or(false) })
    }

    fn keys(path: &str, keys: &mut Vec<String>) {
        <RedirectTo as Decode>::keys(path, keys);
    }
}

/// `[login.texts.LANGUAGE]`: any of our texts, by key. They are not keys of the configuration one by one: the manual
/// lists them where translators look for them.
#[derive(Clone, Debug)]
pub(super) struct Texts(pub(super) Vec<(page::Text, At<String>)>);

impl Decode for Texts {
    fn expected() -> String {
        String::from("a table of texts")
    }

    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        let Some(entries) = node.entries() else {
            findings.problem(&node.place, node.describe(), Self::expected());
            return None;
        };
        let mut texts = Vec::new();
        for entry in entries {
            let Some(text) = page::Text::by_key(&entry.key) else {
                let problem =
                    findings.problem(&entry.place, format!("the unknown key `{}`", entry.key), "a key of our texts");
                if let Some(meant) = did_you_mean(&entry.key, page::Text::ALL.iter().map(|text| text.key())) {
                    problem.help(format!("did you mean `{meant}`?"));
                } else {
                    problem.help("the README lists all of them, under \"Texts\"");
                }
                continue;
            };
            if let Some(translation) = At::decode(&entry.node, findings) {
                texts.push((text, translation));
            }
        }
        Some(Self(texts))
    }
}

/// `[pages]`: files by status, or by class of statuses.
#[derive(Clone, Debug)]
pub(super) struct Pages(pub(super) Vec<(page::Scope, At<FilePath>)>);

impl Decode for Pages {
    fn expected() -> String {
        String::from("a table of files by status, such as \"404\" or \"5xx\"")
    }

    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        let Some(entries) = node.entries() else {
            findings.problem(&node.place, node.describe(), Self::expected());
            return None;
        };
        let classes = ["4xx", "5xx"];
        let known: Vec<&str> = Refusal::STATUSES.iter().map(StatusCode::as_str).chain(classes).collect();
        let (mut pages, mut clean) = (Vec::new(), true);
        for entry in entries {
            let scope = entry.key.parse().ok().filter(|_| known.contains(&&*entry.key));
            let Some(scope) = scope else {
                clean = false;
                let expected =
                    format!("a status that the gateway itself answers with: {}", one_of(known.iter().copied()));
                findings.problem(&entry.place, format!("the unknown key `{}`", entry.key), expected);
                continue;
            };
            match At::decode(&entry.node, findings) {
                Some(path) => pages.push((scope, path)),
                None => clean = false,
            }
        }
        clean.then_some(Self(pages))
    }

    fn absent() -> Option<Self> {
        Some(Self(Vec::new()))
    }
}

/// `csrf`: a word or origins.
#[derive(Clone, Debug)]
pub(super) enum Csrf {
    AllowNoOrigin,
    Off,
    Origins(Vec<Origin>),
    SameOrigin,
    Strict,
}

impl Decode for Csrf {
    fn expected() -> String {
        format!("{} or {{ origins = [\"https://…\"] }}", one_of(CSRF_WORDS))
    }

    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        match node.text() {
            Some("allow_no_origin") => Some(Self::AllowNoOrigin),
            Some("off") => Some(Self::Off),
            Some("same_origin") => Some(Self::SameOrigin),
            Some("strict") => Some(Self::Strict),
            Some(other) => {
                let problem = findings.problem(&node.place, node.describe(), Self::expected());
                if let Some(meant) = did_you_mean(other, CSRF_WORDS) {
                    problem.help(format!("did you mean `{meant}`?"));
                }
                None
            }
            None => CsrfOrigins::decode(node, findings).map(|table| Self::Origins(table.origins)),
        }
    }

    fn keys(path: &str, keys: &mut Vec<String>) {
        <CsrfOrigins as Decode>::keys(path, keys);
    }
}

const CSRF_WORDS: [&str; 4] = ["same_origin", "strict", "allow_no_origin", "off"];

/// `grants`: `"all"`, or what may pass.
#[derive(Clone, Debug)]
pub(super) enum Grants {
    All,
    Only(GrantLists),
}

table! {
    /// `grants = { … }`.
    struct GrantLists {
        /// Roles that may pass.
        roles: Vec<NonEmpty>,
        /// Groups that may pass.
        groups: Vec<NonEmpty>,
        /// Scopes that may pass; an API key has none without it.
        scopes: Option<Vec<NonEmpty>>,
    }
}

/// `maintenance.hosts`.
#[derive(Clone, Debug)]
pub(super) enum MaintainedHosts {
    All,
    Some(Vec<At<Host>>),
}

impl Decode for MaintainedHosts {
    fn expected() -> String {
        String::from("\"all\", or a list of hosts")
    }

    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        if node.text() == Some("all") {
            return Some(Self::All);
        }
        Vec::decode(node, findings).map(Self::Some)
    }
}

impl Decode for Grants {
    fn expected() -> String {
        String::from("\"all\", or { roles = […], groups = […] }")
    }

    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        match node.text() {
            Some("all") => Some(Self::All),
            Some(_) => {
                findings.problem(&node.place, node.describe(), Self::expected());
                None
            }
            None => GrantLists::decode(node, findings).map(Self::Only),
        }
    }

    fn keys(path: &str, keys: &mut Vec<String>) {
        <GrantLists as Decode>::keys(path, keys);
    }
}

/// `grants` of a login provider, whose users have no scopes.
#[derive(Clone, Debug)]
pub(super) struct UserGrants(pub(super) Grants);

table! {
    /// `grants = { … }` of a login provider.
    struct UserGrantLists {
        /// Roles that may pass.
        roles: Vec<NonEmpty>,
        /// Groups that may pass.
        groups: Vec<NonEmpty>,
    }
}

impl Decode for UserGrants {
    fn expected() -> String {
        Grants::expected()
    }

    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        if node.text().is_some() {
            return Grants::decode(node, findings).map(Self);
        }
        let UserGrantLists { roles, groups } = UserGrantLists::decode(node, findings)?;
        Some(Self(Grants::Only(GrantLists { roles, groups, scopes: None })))
    }

    fn keys(path: &str, keys: &mut Vec<String>) {
        <UserGrantLists as Decode>::keys(path, keys);
    }
}

/// Where one secret is. A secret written in place is refused without being repeated (R34).
#[derive(Clone, Debug)]
pub(super) struct Secret(pub(super) SecretSource);

impl Decode for Secret {
    fn expected() -> String {
        String::from("{ file = \"…\" }, { env = \"…\" } or { generate = \"certs/…\" }")
    }

    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        if node.entries().is_none() {
            findings.problem(&node.place, "a value written in place (not repeated here)", Self::expected());
            return None;
        }
        decode_table(node, findings).map(Self)
    }

    fn keys(path: &str, keys: &mut Vec<String>) {
        <SecretSource as Decode>::keys(path, keys);
    }
}

/// The password of a user.
#[derive(Clone, Debug)]
pub(super) enum Password {
    Hash(PasswordHash),
    Stored(Secret),
}

impl Decode for Password {
    fn expected() -> String {
        format!("{}, {}", <PasswordHash as Text>::expected(), Secret::expected())
    }

    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        match node.entries() {
            Some(_) => Secret::decode(node, findings).map(Self::Stored),
            None if node.text().is_some() => PasswordHash::decode(node, findings).map(Self::Hash),
            None => Secret::decode(node, findings).map(Self::Stored),
        }
    }

    fn keys(path: &str, keys: &mut Vec<String>) {
        <SecretSource as Decode>::keys(path, keys);
    }
}

/// `jwks` of an issuer.
#[derive(Clone, Debug)]
pub(super) enum KeySource {
    /// `"discover"`: where its metadata says.
    Discover,
    /// A table with one key.
    Written(Box<KeyFiles>),
}

impl Decode for KeySource {
    fn expected() -> String {
        String::from(
            "\"discover\", { url = \"https://…\" }, { file = \"jwks.json\" }, { pem = \"issuer.pem\" } or { secret = { file = \"…\" } }",
        )
    }

    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        if node.entries().is_some() {
            return decode_table(node, findings).map(|files| Self::Written(Box::new(files)));
        }
        if node.text() == Some("discover") {
            return Some(Self::Discover);
        }
        let problem = findings.problem(&node.place, "a value that is no table", Self::expected());
        if let Some(text) = node.text() {
            if text.starts_with("https://") {
                problem.help("name what it is: { url = \"…\" } for a JWK set that is fetched");
            } else if text.contains(['/', '.']) && !text.contains(char::is_whitespace) {
                problem.help("name what it is: { file = \"…\" } for a JWK set, { pem = \"…\" } for a public key");
            }
        }
        None
    }

    fn keys(path: &str, keys: &mut Vec<String>) {
        <KeyFiles as Decode>::keys(path, keys);
    }
}

/// Which key of a table of alternatives is written; a problem unless it is exactly one.
pub(super) fn exactly_one(
    place: &Place,
    choices: &[(&'static str, bool)],
    findings: &mut Findings,
) -> Option<&'static str> {
    let written: Vec<&'static str> = choices.iter().filter(|(_, written)| *written).map(|(key, _)| *key).collect();
    if let [only] = written[..] {
        return Some(only);
    }
    let found = if written.is_empty() { String::from("none of them") } else { written.join(" and ") };
    findings.problem(place, found, format!("exactly one of {}", one_of(choices.iter().map(|(key, _)| *key))));
    None
}
