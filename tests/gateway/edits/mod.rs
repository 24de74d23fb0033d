//! What a route changes between client and upstream: paths, headers, and where a redirect leads.

/// `request_headers` and `response_headers`.
mod headers;
/// `strip_prefix` and `rewrite`, and the way back.
mod paths;
/// `redirect` with parameters.
mod redirects;
