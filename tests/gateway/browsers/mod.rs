//! What browsers, and the pages and scripts in them, get to see: who is redirected, whose requests count, who may read.

/// Redirects for people, statuses for programs (R30).
mod audience;

/// Who may read answers from another origin (R32).
mod cors;

/// Whose requests count where the browser adds the credential by itself (R31).
mod cross_site;

/// Our own pages and answers: their headers, and that nothing of a request is in them (R33).
mod pages;
