//! Portcullis: a reverse-proxy authentication gateway. TLS in, session cookie or JWT checked, `X-User-*` out.
//!
//! # A request's way
//!
//! ```text
//! accept → TLS → HTTP → route → authenticate → authorize → rewrite headers → upstream → response
//!                       └────────── decide ──────────┘   └────── relay ─────┘  └ conclude ┘
//! ```
//! [`pipeline`] tells this story in one screen. **Decide** (route → credential → identity → verdict) is pure but for
//! one look-up in the session store. **Relay** matches on the permit's target: an upstream, our own endpoints, a fixed
//! answer. **Conclude** makes the answer, and from one `Outcome` the log line and the metrics. No stage calls the next
//! one; each returns, and the parent goes on. The upstream is never contacted before the verdict is *allow*.
//!
//! # Where things are
//!
//! | question | module |
//! |---|---|
//! | What happens to a request, in order? | [`pipeline`], then [`decide`] |
//! | Where do threads, sockets and tasks come from, and how does it stop? | [`gateway`], [`shutdown`] |
//! | What is the service manager told, and which sockets does it hand us? | [`service`], [`edge::Inherited`] |
//! | Which state is shared, and what does a reload swap? | [`state`] |
//! | Which route wins when two match? What is a canonical path? | [`route`], [`route::path`] |
//! | Where is a cookie read, a JWT checked, a key loaded? | [`authn::credential`], [`authn::jwt`], [`authn::keys`] |
//! | Whose is a token beside the bearer's? | [`authn::possession`], [`authn::dpop`] |
//! | When are an issuer's keys fetched, and how? | [`authn::jwks`], [`fetch`] |
//! | How many requests are let through, and whose? | [`rate_limit`] |
//! | Who is asked about a token that is no JWT? | [`authn::introspection`] |
//! | Who may create a permit? | [`authz`], nobody else |
//! | What headers does an upstream get, and which are removed? | [`headers`] |
//! | What reaches a client before its answer? | [`hints`], written by [`edge`] |
//! | Which path does an upstream get, and how does its answer lead back? | [`route::rewrite`], [`headers::prefix`] |
//! | Which connection does a request go out on, and what does it share? | [`upstream`], its `pool` and `http2` |
//! | Which server takes a request, which are out, and where are they? | [`upstream`], its `balance`, [`upstream::health`], `names` and `eyeballs` |
//! | Who is asked for the addresses of a name, and how long do they count? | [`dns`] |
//! | When is a request sent again, and who waits for an upstream? | [`upstream`], its `retry` and `queue` |
//! | Which of several upstreams does a caller get? | [`route::Split`], `pipeline::spread` |
//! | When does a gateway say that it is ready? | [`gateway`], its `readiness` |
//! | Why did this request get 401, 403, 502? | [`refusal`] |
//! | How is a session stored, how does it end? | [`session`] |
//! | What survives a restart, and how is it written? | [`durable`] |
//! | Who is asked for a client certificate, and what is it worth? | [`mtls`] |
//! | What was revoked before its time, and who is held against it? | [`revocation`], asked in [`decide`] |
//! | Which keys does the gateway sign with, and when do they change? | [`signing`] |
//! | What is an API key, and who makes them? | [`api_key`], [`admin`] |
//! | What is an upstream told under our signature? | [`headers::assertion`] |
//! | How are people logged in? | [`login`], [`accounts`] |
//! | What does a program get for a session, a password or a key? | [`token`], [`refresh`]; what it counts for: [`authn::own`] |
//! | What is a second factor, and who may have one? | [`factor`] |
//! | What does a key of gateway.toml become? | [`config`] |
//! | How does an API description become routes? | [`openapi`] |
//! | What is checked before HTTP is parsed? | [`edge`] |
//! | Which certificate is served, and who orders and renews it? | [`certificate`], [`acme`] |
//! | How does a new process follow a running one? | [`handover`] |
//! | What does another configuration open? | [`reload::diff`], [`rehearsal`] |
//! | What does a reload do, and when is it refused? | [`reload`], [`change`] |
//!
//! # Layers
//!
//! Imports go down only; within a layer only where an arrow says so. `tests/tidy.rs` holds this table and checks it.
//!
//! ```text
//! 9 main, cli(→gateway), gateway
//! 8 reload, handover(→reload)
//! 7 config
//! 6 edge
//! 5 pipeline, rehearsal
//! 4 decide
//! 3 state
//! 2 authz, headers(→authz), upstream(→headers), authn, login, token(→authn, login), csrf, cors, admin, openapi, acme
//! 1 route, session, revocation, api_key(→revocation), refresh(→session), refusal, accounts, factor, signing, fetch, dns
//! 0 swar, frames, stream, secret, clock, durable, shutdown, service, host, listener, telemetry, certificate, id, identity, mtls, hints, client, inbound, policy, rate_limit, page, change
//! ```
//! What keeps it a tree: stages take their own `Settings`, never `&Snapshot`; telemetry takes labels and numbers, never
//! domain types; there is no crate-wide error enum: each stage's error is converted into a [`refusal::Refusal`].
//!
//! # Invariants
//!
//! - **No permit, no upstream.** [`authz::evaluate`] alone makes a [`authz::Permit`]; `headers::rewrite` takes it by
//!   value, and only what that returns can be forwarded.
//! - **One snapshot per request**, taken once; one `ClientView`; one canonical path: what is matched is what is sent.
//! - **Four answers** of an authenticator: valid, absent, invalid, unavailable. Only valid goes on; unavailable is 503
//!   and never "anonymous".
//! - **Nothing of a client's survives under our names**: managed headers are removed on every route before ours are set.
//! - **One thread per core.** Requests, upstream connections and log buffers stay on their worker; password hashing
//!   and files never run there. No lock or map guard is held across an await.
//!
//! # Threats
//!
//! Each row is a bug that another gateway had, or an attack that was thought through. Tests of that name exist.
//!
//! | threat | answer | file | test |
//! |---|---|---|---|
//! | Identity headers from the client, under an alias, by another profile or as a trailer (CVE-2025-64484, CVE-2026-39858) | names are folded and removed on every route before ours are set | `src/headers/identity.rs` | `no_spelling_of_a_managed_name_survives_on_any_route`, `a_trailer_carries_no_identity`, `trailers_pass_where_the_route_wants_them_and_carry_no_identity` |
//! | A header that `Connection` names is removed after it was set (CVE-2025-48865) | what the client names goes before ours come | `src/headers/hop.rs` | `connection_cannot_take_our_headers_away` |
//! | Identity left over when the proof sets nothing (CVE-2026-30851) | an absent value is an absent header | `src/headers/identity.rs` | `an_absent_value_is_an_absent_header`, `an_optional_route_lets_a_request_without_a_credential_through_without_identity` |
//! | `X-Forwarded-*` of a stranger is believed (CVE-2026-40575, CVE-2023-36456) | trust nobody by default; one view of the client | `src/headers/forwarded.rs` | `nothing_that_an_untrusted_client_says_about_itself_is_believed_or_passed_on`, `a_forwarded_host_never_routes` |
//! | Somebody takes a process over, or what was ended in one of two processes goes on in the other | one user, proved by the system, in a directory of that user alone; nobody hears of a change before it holds in both, and a process that cannot follow is ended | `src/handover/mod.rs` | `nobody_else_gets_anything`, `a_logout_on_either_process_holds_on_both`, `an_old_process_that_hangs_is_ended_before_anybody_hears_of_a_logout`, `an_old_process_ends_with_the_one_that_has_taken_over` |
//! | An upgrade gives fresh guesses, two successors of a token, a second use of a proof, or a session to who is gone | failures are counted on; what has one place only is refused in the old process; sessions are held against the new configuration | `src/handover/taking.rs` | `what_was_counted_in_one_process_counts_in_the_next`, `a_refresh_token_is_for_the_new_process`, `what_another_process_may_have_judged_does_not_count`, `a_user_who_is_gone_in_the_new_process_gets_no_session_on_the_old_one` |
//! | A client says by the PROXY protocol that it is another, a load balancer's clients share its address, or a header never ends | read from listed networks only, and there required; before TLS, bounded in bytes and time; limits hold for whom it names | `src/edge/proxy_protocol.rs` | `a_header_of_a_stranger_is_no_request`, `a_load_balancer_that_says_nothing_or_nonsense_is_not_heard_and_counted`, `limits_hold_for_the_client_and_not_for_the_load_balancer`, `a_header_that_does_not_come_is_not_waited_for_longer_than_a_handshake`, `a_process_that_follows_hears_the_load_balancer_as_the_one_before_it_did` |
//! | The backend reads another path than was decided on (CVE-2019-9901, CVE-2025-66490) | one canonical path is matched and sent; the rest is 400 | `src/route/path.rs` | `nginx_believes_the_paths_that_were_decided`, `a_cgi_script_believes_the_paths_that_were_decided`, `tomcat_believes_paths_and_identity_as_they_were_decided` |
//! | A rewritten path leaves its place, or shows the backend another value than the rule looked at | parameters go over as they are encoded; the result is canonical and judged in every reading | `src/route/rewrite.rs` | `the_path_of_an_upstream_never_leaves_its_place`, `a_rule_is_about_the_path_that_was_sent`, `no_spelling_climbs_out_of_the_prefix` |
//! | A redirect or a header of the configuration lets a client choose where it leads or what is believed | parameters stand in paths only; what protects cannot be edited | `src/headers/edit.rs` | `a_redirect_on_the_own_host_leads_to_no_other`, `a_location_cannot_climb_out_of_the_prefix`, `a_request_keeps_what_protects_the_upstream` |
//! | Routes that are made of an API's description let more through than it says | never laxer; what cannot be said is loaded by nobody | `src/openapi/rule.rs` | `imported_routes_let_nobody_through_whom_the_document_does_not`, `what_cannot_be_said_is_loaded_by_nobody`, `words_of_a_document_never_become_configuration` |
//! | A less specific route or another method opens what a stricter one guards | the most specific path decides before the method | `src/route/mod.rs` | `a_method_that_the_most_specific_path_lacks_is_405_with_allow`, `an_admin_path_is_no_other_path_for_another_method` |
//! | A bad credential falls through to another, or to anonymous (CVE-2026-25748, CVE-2022-29226) | four answers, only valid goes on | `src/authn/mod.rs` | `a_void_token_does_not_fall_through_to_a_good_session`, `a_void_token_is_refused_on_an_optional_route_too` |
//! | Algorithm confusion, `none`, a public key as HMAC secret (CVE-2026-39999) | the algorithm belongs to the key | `src/authn/keys.rs` | `every_algorithm_verifies_its_own_signatures_and_no_others`, `hmac_and_public_keys_are_never_in_one_issuer` |
//! | One issuer's key signs for another; audience or expiry is not checked | issuer first, then its keys; `exp` and `aud` are mandatory | `src/authn/jwt.rs` | `a_token_counts_only_where_its_issuer_is_named`, `a_token_with_a_good_signature_is_refused_for_what_it_says`, `of_each_header_parameter_and_each_claim_only_it_is_wrong` |
//! | Another kind of token is taken for an access token: an ID token, a logout token, signed text | kinds do not mix; an issuer may ask for `at+jwt` and for claims | `src/authn/jwt.rs` | `access_tokens_only_means_their_type_and_every_claim_that_they_must_have`, `a_good_signature_under_something_else_than_claims_is_no_token` |
//! | An issuer's key set is hostile, broken or down: HTML, endless, redirected, weak, private or doubled keys | strict and bounded in bytes and time; the last good set stays; never "anonymous" | `src/fetch/mod.rs` | `the_last_good_keys_count_through_outages_and_nonsense`, `fifty_megabytes_are_not_read`, `an_answer_that_drips_ends_at_the_deadline`, `an_issuer_that_is_down_at_the_start_stops_nobody_else` |
//! | Somebody else answers for an issuer: mix-up in metadata, a foreign certificate | `issuer` byte for byte, https only, certificates verified | `src/authn/jwks.rs` | `metadata_of_another_issuer_is_refused`, `an_authority_that_is_not_believed_publishes_nothing` |
//! | Made-up key ids make us storm the issuer or keep a new key out (gateway#4791) | one fetch at a time, within a token bucket | `src/authn/jwks.rs` | `made_up_kids_neither_wear_the_issuer_down_nor_keep_a_new_key_out`, `a_real_providers_new_key_counts_within_ten_seconds_whatever_kids_a_stranger_makes_up` |
//! | An introspection endpoint is hostile, broken or down, answers for others, or is used to wear us or it down | only `active: true` in strict JSON; judged as claims are; never "anonymous"; one question a token, bounded by address and in number | `src/authn/introspection/mod.rs` | `nonsense_and_outages_are_unavailable`, `what_is_said_is_judged_as_a_jwts_claims_are`, `one_address_cannot_make_us_ask_without_end`, `an_endpoint_that_is_away_is_left_alone_and_found_again` |
//! | A tunnel outlives the end of its opaque token | asked about again for as long as it lives | `src/authn/introspection/mod.rs` | `a_tunnel_ends_when_its_token_is_active_no_more`, `a_tunnel_whose_token_cannot_be_asked_about_ends_after_a_while` |
//! | A withdrawn key goes on opening doors through the cache | what was verified with it ends with it | `src/authn/keys.rs` | `a_key_that_leaves_ends_its_tokens_at_once_and_one_that_stays_keeps_them` |
//! | A cache skips checks, confuses tokens, or loses those in use to a flood of others | compared in full; newcomers push out newcomers; times and requirements are judged on every request | `src/authn/token_cache/mod.rs` | `only_the_exact_bytes_of_a_token_are_known`, `a_known_token_expires`, `a_known_token_opens_no_route_whose_requirements_it_does_not_meet`, `tokens_in_use_stay_known_in_a_stream_of_others`, `what_is_near_counts_no_longer_than_what_is_behind_it` |
//! | A stolen token that is bound to a key is used: as a bearer, in a cookie, with a proof of another key, token, method or place | what a token is bound to is checked on every use, in one place; `cnf` of another kind counts for nobody | `src/authn/possession.rs` | `a_bound_token_is_no_bearer_and_a_bearer_is_not_proven`, `a_token_that_is_bound_twice_needs_both_proofs`, `a_token_that_is_asked_for_with_a_proof_is_bound_to_its_key_and_so_are_those_that_follow`, `a_proof_is_refused_for_each_part_that_is_wrong`, `a_proof_counts_for_the_method_and_the_place_of_its_request` |
//! | A proof is replayed: at once on many connections, after a restart, after the clock stepped back, or by crowding out its memory | used proofs are remembered for as long as they are good, by subject within its share; what a start forgot asks for a nonce of this process | `src/authn/dpop/replay.rs` | `of_many_uses_at_once_exactly_one_counts`, `a_proof_that_may_have_been_used_before_the_start_does_not_count`, `a_proof_does_not_count_again_after_the_clock_stepped_back`, `one_subject_cannot_take_the_room_of_all_and_a_full_store_forgets_nothing` |
//! | Forged tokens or proofs wear us down, or lock others out | wrong signatures are booked to their address, those of proofs to key and address; known tokens never wait | `src/authn/verify_rate.rs` | `a_forger_waits_and_nobody_else_does`, `forged_tokens_that_are_given_back_are_looked_at_slowly`, `forged_proofs_slow_down_whoever_forges_them` |
//! | Our credentials reach the backend, or its answer touches our cookies | cut out of `Cookie`; `Set-Cookie` and `Clear-Site-Data` are limited | `src/headers/response.rs` | `our_cookie_reaches_no_upstream_on_any_route`, `a_token_in_a_cookie_or_a_header_reaches_no_upstream_on_any_route`, `an_upstream_cannot_set_or_clear_our_cookie`, `clear_site_data_loses_the_cookies` |
//! | The upstream is contacted before the verdict (GHSA-59jp-rwph-878r) | forwarding takes the permit by value | `src/authz.rs` | `a_refused_request_sends_no_byte_upstream` |
//! | A host in another spelling, doubled or forwarded skips a rule (CVE-2026-48794) | one authority, canonical; unknown hosts are 421 whatever the credentials | `src/route/host.rs` | `a_request_without_one_good_host_is_refused`, `a_good_credential_opens_no_unknown_host` |
//! | Request smuggling: lengths, codings, line ends and names that two readers read differently | refused, not repaired; what goes upstream is written afresh | `src/edge/framing.rs` | `lengths_and_codings_that_contradict_are_refused`, `heads_that_two_readers_cut_differently_are_refused`, `malformed_requests_reach_no_upstream`, `framing_is_written_afresh_for_the_upstream` |
//! | Slow or flooding clients: heads, bodies, readers, resets, CONTINUATION (CVE-2023-44487) | everything is bounded, by one sweep per worker | `src/edge/progress.rs` | `a_head_that_drips_is_answered_with_408`, `a_client_that_does_not_read_costs_no_memory`, `a_rapid_reset_ends_the_connection`, `a_continuation_flood_ends_the_connection` |
//! | Floods that a library's bounds let pass: requests that are taken back one by one, pings, settings, empty frames (CVE-2019-9512, 9513, 9515, 9518) | frames of HTTP/2 are counted as they pass; what brings nothing on ends the connection | `src/edge/conversation.rs` | `resets_that_wait_for_their_request_end_the_connection`, `frames_that_bring_nothing_on_end_the_connection` |
//! | A client over HTTP/2 that opens no window holds answers and upstreams (CVE-2019-9517) | an answer that is not taken ends by `write_timeout` | `src/edge/answering.rs` | `an_answer_over_http2_that_its_client_does_not_take_is_cut` |
//! | A tunnel that nobody allowed, or bytes before the upstream agreed (h2c smuggling) | only a checked WebSocket handshake; a tunnel begins after the matching 101 | `src/upstream/upgrade.rs` | `anything_but_a_sound_websocket_handshake_is_an_ordinary_request`, `bytes_of_the_client_wait_for_the_101`, `a_101_that_does_not_answer_the_handshake_is_a_bad_gateway` |
//! | The same over HTTP/2: another `:protocol`, an answer that opens what nobody accepted, a stream that outlives its session or starves others | one handshake, whichever way it came; a stream is opened by an accepted one and by nothing else | `src/headers/websocket.rs` | `no_other_connect_is_served`, `a_handshake_that_is_not_accepted_opens_nothing`, `a_stream_with_a_session_is_opened_for_our_own_pages_only`, `whoever_does_not_read_makes_the_other_wait` |
//! | A backend that breaks, goes away or floods: half an answer that looks whole, a request done twice, many waiting for one | what is not complete is reset; only what was not processed is sent again; windows, heads and turns are bounded | `src/upstream/http2/mod.rs` | `what_a_server_going_away_did_not_process_is_sent_again_and_nothing_else`, `a_body_that_was_sent_in_part_is_not_sent_again_and_the_next_request_goes_over_http1`, `a_reset_is_an_error_before_the_head_and_visible_behind_it`, `a_client_that_does_not_read_makes_its_stream_wait_and_no_other`, `a_server_that_floods_is_cut_and_what_was_under_way_fails`, `a_server_that_floods_takes_bounded_memory_and_is_cut_counted_and_told`, `what_goes_with_requests_and_bodies_is_no_flood` |
//! | An interim answer of an upstream is taken for an answer or stands within one, reaches who did not ask or cannot read it, or carries what no hint needs | `Link` values alone, without a byte that ends a line, whole or not at all; written where nothing of an answer is under way, and the answer waits for it | `src/hints.rs` | `no_value_ends_its_line`, `links_of_a_hint_and_nothing_else_come_before_the_answer`, `hints_of_pipelined_requests_stand_between_the_answers`, `each_of_many_streams_gets_its_own_hints`, `a_stream_is_hinted_at_until_its_client_resets_it`, `no_hint_comes_behind_the_answer`, `whoever_knows_no_interim_answers_or_asks_for_a_tunnel_is_not_hinted_at`, `a_request_that_is_refused_is_not_hinted_at` |
//! | What may have had an effect is sent twice, or retries multiply an outage | idempotent and without a body only, never behind a byte of the answer; one budget for all workers | `src/upstream/retry.rs` | `what_may_have_had_an_effect_is_not_sent_again`, `an_answer_that_has_begun_is_not_begun_again`, `an_outage_is_not_multiplied` |
//! | An upstream that takes little is given much, or its turns are lost one by one until nobody is served | one bounded queue for all workers; a turn is the next one's however it ends | `src/upstream/queue.rs` | `one_too_many_waits_and_what_is_beyond_is_503`, `who_leaves_leaves_nothing_behind`, `threads_together_have_no_more_than_one_alone` |
//! | Somebody else answers for a name server; an answer is hostile, broken or endless; a server that is down leads to another name or takes the addresses away | random id and port, the server's own address, the question repeated; bounded, pointers lead backwards; a search ends where nobody can tell, and the last good answer stays | `src/dns/message.rs` | `an_answer_to_another_question_is_none`, `nobody_but_the_server_that_was_asked_is_heard`, `a_broken_answer_is_none_wherever_it_breaks`, `a_server_that_does_not_answer_leads_to_no_other_name`, `a_record_that_changes_moves_the_traffic_and_the_last_good_one_stays_when_the_server_falls_silent` |
//! | The side of a split that a caller is on decides what they may do, or reads their path otherwise | one route, one rule; a path is decided on as every side could read it | `src/route/split.rs` | `rules_and_headers_are_the_same_on_every_side`, `a_path_is_decided_on_as_every_side_could_read_it` |
//! | A host in maintenance lets a request through: of a known caller, to another kind of route, by a forged address | closed before anybody is asked who they are; the one view of the client | `src/decide.rs` | `every_kind_of_route_is_closed_whoever_asks`, `who_is_excepted_is_judged_by_the_rules_and_not_by_what_they_say_of_themselves` |
//! | Another site uses somebody's cookie, for a post, a tunnel, a login or a logout | `Sec-Fetch-Site`, else `Origin`; a form token for the login | `src/csrf.rs` | `an_unsafe_request_with_a_session_counts_from_our_own_pages_only`, `another_site_cannot_open_a_tunnel_with_somebodys_session`, `a_token_in_a_cookie_counts_for_changes_from_our_own_pages_only`, `a_login_form_without_its_token_is_refused` |
//! | Session fixation (GHSA-f24x-5g9q-753f) | a new id at every login, never one of the client's choice | `src/login/sign_in.rs` | `a_session_id_of_the_clients_choice_is_never_taken`, `each_login_makes_a_new_session_and_ends_the_one_before` |
//! | A crash or a restart brings a session back that was ended, or loses one | on disk before the answer, one order for disk and memory | `src/durable/writer.rs` | `what_was_acknowledged_holds_after_a_kill_under_load`, `what_was_acknowledged_holds_after_storage_lost_what_was_not_synced`, `a_sync_comes_before_the_first_byte_of_the_answer` |
//! | A full, broken or hanging disk opens, loses or silently keeps sessions, or makes everybody wait | 503 in time, nothing changes, what may be half there is undone | `src/durable/writer.rs` | `a_full_disk_refuses_logins_and_logouts_and_lets_known_sessions_go_on`, `what_was_refused_in_the_sync_is_undone`, `a_disk_that_hangs_refuses_changes_in_time_and_what_it_wrote_is_taken_back` |
//! | A stolen disk tells who is who; records are moved or exchanged | sealed, with table and key as associated data; keys that name somebody are hidden | `src/durable/seal.rs` | `what_is_on_disk_is_for_the_owner_only_and_tells_nothing`, `keys_that_name_somebody_are_not_on_disk`, `a_record_is_opened_by_older_keys_too_and_by_no_other_and_nowhere_else` |
//! | A clock that is set back revives what has expired | time goes on from what is on disk | `src/clock.rs` | `time_does_not_run_backwards_across_a_restart` |
//! | A tunnel, stream or download outlives the logout, the revocation or the expiry behind it | each worker looks through what is under way four times a second | `src/pipeline/exchanges.rs` | `a_tunnel_ends_with_its_session`, `an_event_stream_breaks_off_with_its_session`, `a_download_breaks_off_even_if_its_client_does_not_read`, `a_tunnel_ends_with_its_token`, `a_tunnel_ends_when_its_token_is_revoked` |
//! | A step-up ends in another account, or keeps the old session alive | same realm and subject, or nothing changes; a new id, the old one dies | `src/login/step_up.rs` | `a_step_up_ends_in_the_same_person_or_changes_nothing`, `a_step_up_gives_a_new_session_and_ends_the_one_before` |
//! | A way around the second factor: another endpoint, another browser's login, a used code, a lost disk, a guess | one proof that one module makes; a waiting login belongs to one browser; steps and recovery codes are used up on disk first; a missing secret refuses; guesses wait ever longer | `src/login/second/mod.rs` | `a_login_that_waits_for_its_code_counts_in_its_browser_only`, `a_code_logs_in_once`, `what_was_used_stays_used_across_restarts`, `a_missing_secret_refuses_and_enrols_nobody_uninvited`, `codes_cannot_be_guessed` |
//! | The login page tells who has a second factor | what is asked for is decided after the password | `src/login/second/mod.rs` | `a_wrong_password_is_answered_alike_with_and_without_a_second_factor` |
//! | Somebody fills the store with sessions, to log others out or to keep them out | whoever has the most gives one up, who has one keeps it | `src/session/crowd.rs` | `a_full_store_takes_from_whoever_has_the_most_and_never_the_only_session`, `of_logins_that_come_together_none_goes_beyond_the_limit` |
//! | A session lives for weeks though nobody offered it or its owner did not ask | the provider decides, the form only asks; a step-up keeps what was chosen | `src/login/sign_in.rs` | `a_forged_wish_has_no_effect_where_nobody_is_asked`, `a_step_up_keeps_the_choice_of_the_session_before` |
//! | Somebody ends or sees another person's sessions by an id, or a stolen cookie locks its owner out | ids are looked up among one's own; to end all asks for a login of the last five minutes | `src/login/sessions.rs` | `nobody_sees_or_ends_what_is_somebody_elses`, `a_forged_form_ends_nothing`, `to_end_all_sessions_long_after_the_login_one_logs_in_again` |
//! | One caller, or a crowd of strangers, uses up what others may ask for | counted by who somebody proved to be; only what would be let through counts; a full table makes newcomers share | `src/rate_limit/mod.rs` | `one_caller_uses_up_nobody_elses_share`, `what_is_refused_for_another_reason_counts_for_nobody`, `callers_beyond_the_room_share_buckets_and_take_nobody_elses` |
//! | A route that lets everybody through for a while does so forever, or lends its callers an identity | a day is mandatory and enforces by itself; warned of each hour; who proved nothing is nobody | `src/decide.rs` | `whoever_may_not_pass_does_so_until_the_day_and_is_reported`, `the_backend_is_told_who_was_proved_and_nobody_else` |
//! | Logout is cosmetic | the record ends in the store | `src/session/memory.rs` | `a_logout_ends_the_session_and_clears_the_cookie` |
//! | A revoked token counts on: from the cache, with the twin of its signature, without `iat`, after a kill, after the clock stepped back | one list, asked on every use, keyed by what is signed; moments only move forward | `src/revocation/mod.rs` | `each_way_to_revoke_voids_a_token_with_the_next_request`, `each_way_to_revoke_holds_for_every_form_of_a_token`, `each_way_to_revoke_holds_after_a_kill`, `a_signature_has_a_twin_and_both_are_revoked`, `a_moment_voids_what_was_issued_before_it_and_what_does_not_say_when`, `a_clock_that_steps_back_frees_nothing` |
//! | A token of ours outlives the session or key it comes from, or says of its owner what is no longer so | it names its parent, which is asked on every use, also by what is under way | `src/authn/own.rs` | `each_way_to_revoke_ends_the_tokens_of_a_session`, `a_token_never_outlives_its_session`, `the_token_ends_with_its_key`, `tokens_survive_a_kill_and_what_was_ended_does_not` |
//! | Another site, or a script of ours that was taken over, gets tokens that last | same origin only; refresh tokens of pages are in a cookie for the token endpoints alone, and in no body; passwords come from no page | `src/token/mod.rs` | `another_site_gets_no_token_with_somebodys_session`, `a_browsers_token_stays_in_its_cookie_and_counts_for_our_own_pages_only`, `no_page_gets_a_token_for_a_password` |
//! | A stolen refresh token is used beside its owner, now, later, or after a restart | each has one successor; whoever shows a spent one late or from elsewhere ends the family; hashes only | `src/refresh/mod.rs` | `a_spent_token_has_the_same_successor_for_ten_seconds_and_then_ends_everything`, `a_spent_token_from_another_network_ends_the_family_at_once`, `a_spent_refresh_token_is_known_after_a_kill`, `fifty_requests_at_once_get_exactly_one_successor` |
//! | The token endpoint is a way around the throttle, the second factor or the age of a login | one login for all; tokens say what was proved | `src/login/native.rs` | `a_wrong_password_and_an_unknown_user_are_refused_alike_and_slowed_down_as_on_the_page`, `whoever_has_a_second_factor_gets_no_token_without_it`, `a_token_skips_no_step_up` |
//! | An API key is guessed by its id, found in a backend's log, used from elsewhere or beside another credential | compared in full by its hash; its header is removed on every route; networks; two explicit credentials are refused | `src/api_key/mod.rs` | `a_key_counts_with_its_whole_text_only`, `a_key_reaches_no_upstream_on_any_route`, `a_key_beside_another_credential_is_refused` |
//! | A key that was made at run time holds more than its maker may grant, comes back after a crash, outlives its maker, or is missed by a log-out everywhere that meets its making | bounded by the admin token's realm and grants, then and later; on disk before the answer; one order for making and ending | `src/api_key/store.rs` | `a_key_holds_no_more_than_its_maker_may_grant`, `keys_and_their_ends_survive_a_crash`, `keys_follow_the_admin_token_that_made_them`, `a_key_that_is_being_made_is_struck_with_its_subject` |
//! | A client certificate that is stolen, expired, revoked, for servers, of somebody else's authority, or of two people | possession in the handshake; chain, dates, usage, lists and subject judged for each request | `src/mtls/mod.rs` | `a_certificate_without_its_key_ends_the_handshake`, `a_void_certificate_is_refused_for_what_it_is`, `exactly_one_name_of_the_kind_makes_a_subject`, `a_new_list_counts_on_open_connections` |
//! | Certificates are gone around: another host's connection or ticket, a coalesced request, a list that is too old | a connection serves the hosts of its settings; ticket keys for each; no list, no verdict | `src/edge/tls.rs` | `a_host_with_other_settings_than_the_server_name_is_misdirected`, `a_ticket_resumes_where_it_was_made_only`, `coalesced_requests_are_misdirected_and_the_connection_goes_on`, `a_list_that_has_ended_is_no_verdict` |
//! | A stolen cookie is used, from elsewhere or after a restart | `session.bind` ties sessions to a key that only their owners hold; judged on every use, also for what comes from the session | `src/session/mod.rs` | `a_session_counts_with_the_key_it_was_opened_with_only`, `a_session_stays_tied_after_a_restart`, `tokens_of_a_tied_session_are_bound_to_its_certificate` |
//! | A header that tells of a certificate is believed, or a proxy's certificate is its clients' | such names are managed; behind a trusted proxy certificates say nothing | `src/headers/names.rs` | `what_a_client_says_of_certificates_reaches_no_upstream`, `the_certificate_of_a_trusted_proxy_says_nothing_of_its_clients` |
//! | A backend believes whoever reaches it past the gateway, or one upstream passes itself off with what it was sent | a signature that counts for a minute and for one upstream | `src/headers/assertion.rs` | `express_believes_what_the_gateway_asserts_and_nothing_else`, `fastapi_believes_what_the_gateway_asserts_and_nothing_else`, `an_assertion_is_for_one_upstream_only`, `no_spelling_of_the_assertions_header_survives_on_any_route` |
//! | What was signed about one caller is sent for another, for too long, or after their roles changed | kept by identity, upstream and settings, in time bounded from both sides | `src/headers/assertion.rs` | `an_identity_at_the_address_of_one_that_is_gone_gets_no_assertion_of_it`, `a_clock_that_is_set_back_gives_no_assertion_a_longer_life`, `the_end_of_a_session_is_outlived_by_the_ttl_at_most`, `a_reload_that_changes_a_users_roles_changes_the_next_assertion` |
//! | One kind of token of ours is used as another | each purpose has keys and a `typ` of its own | `src/signing/mod.rs` | `an_assertion_is_never_accepted_as_a_bearer`, `no_key_signs_for_two_purposes`, `a_key_that_was_put_where_another_belongs_lets_nothing_start` |
//! | A rotation, a restart or a clock locks callers out or revives a key | published a day before it signs, kept until what it signed has ended, on disk before it is seen, never back | `src/signing/rotation.rs` | `a_backend_that_keeps_the_key_set_never_meets_an_unknown_key`, `what_was_signed_before_a_restart_is_verified_after_it`, `a_clock_that_is_set_back_revives_no_key_and_stops_no_rotation` |
//! | Open redirect after the login (GHSA-qqxw-m5fj-f7gv) | local paths only, by a strict parser | `src/login/return_to.rs` | `nobody_is_led_to_another_site_after_the_login` |
//! | User enumeration, guessing, and locking others out | one answer after the same work; a wait that is bounded, kept, and spares known browsers | `src/login/throttle.rs` | `an_unknown_user_and_a_wrong_password_get_the_same_answer`, `nobody_can_lock_a_user_out_of_their_own_browser`, `who_waits_as_told_is_let_through_whatever_others_do` |
//! | A device cookie that tells who uses a browser, opens something, or is forged | a keyed mark for each (realm, subject), of one length | `src/login/device.rs` | `a_browser_is_known_to_whoever_logged_in_there_and_to_nobody_else`, `the_cookie_is_protected_and_of_one_length` |
//! | Times that tell bcrypt users from argon2 users from nobody | every attempt tries one hash of each kind | `src/accounts/mod.rs` | `every_attempt_does_the_work_of_every_kind`, `an_unknown_user_and_a_wrong_password_take_the_same_time` |
//! | A hash that stalls every login, is guessed in no time, or lets a shortened password in | cost bounded and weak formats refused where hashes are read; what bcrypt would cut is nobody's | `src/accounts/verifier.rs` | `unfit_hashes_are_refused_with_advice`, `what_bcrypt_would_cut_or_confuse_is_nobodys` |
//! | A users file that is lost, half written, or opened to others by a change | locked, written beside, synced and renamed with mode and owner | `src/accounts/users_file/replace.rs` | `of_many_writers_none_is_lost_and_no_reader_sees_half`, `mode_owner_and_links_stay` |
//! | A flood of logins takes processors and memory from requests | few threads at idle priority behind a bounded queue; where nothing is left to them, one password a second | `src/accounts/hasher.rs` | `a_flood_of_logins_takes_bounded_memory`, `a_full_queue_answers_at_once`, `a_password_is_checked_though_others_take_all_processors` |
//! | A renewed hash revives an old password or logs people out | only the hash that was checked is replaced; the salt of the new one names it | `src/accounts/renewal.rs` | `a_hash_that_somebody_changed_meanwhile_is_left_alone`, `a_renewed_hash_says_what_it_was_made_of` |
//! | A form kept over a login is shown to or sent as somebody else, altered, sent twice or by itself | bound to (realm, subject) and to the browser's own secret; compared at the click, once; cross-site is judged before | `src/login/stash.rs` | `a_kept_form_is_shown_to_nobody_else`, `a_kept_form_cannot_be_altered`, `a_form_that_came_too_late_is_sent_by_a_click_and_once`, `neither_other_sites_nor_scripts_have_a_form_kept` |
//! | Script or markup in our own pages | escaped, no script, strict policy, nothing reflected | `src/page/mod.rs` | `nothing_that_was_sent_is_in_a_page`, `a_display_name_with_markup_is_escaped`, `our_pages_cannot_be_framed` |
//! | An error page of the operator's own lets a value become markup, or a script run | blanks only where escaped values stay text; the policy of our own pages | `src/page/template.rs` | `no_value_breaks_out_of_its_place`, `a_blank_where_its_value_would_not_stay_text_is_refused`, `a_page_of_ones_own_runs_nothing_and_has_its_style` |
//! | Secrets in logs, metrics or error texts | redacted types; queries omitted; client text escaped | `src/telemetry/log.rs` | `no_secret_is_told_whatever_became_of_its_request`, `what_a_client_sent_is_escaped_in_both_formats` |
//! | A password typed in place of the user name stays in the audit log; a flood of lines hides what was done | only names that are somebody's are told; audit lines have room of their own, and losses are told in the log | `src/telemetry/audit.rs` | `a_password_typed_as_the_name_is_not_told`, `lost_audit_lines_are_told_as_soon_as_there_is_room` |
//! | A constant or demonstration secret opens a real set-up | random, 0600, for this machine only; `check --production` refuses them | `src/config/build/secret.rs` | `generated_secrets_serve_this_machine_only`, `check_for_production_refuses_the_demonstration` |
//! | Half a configuration is in use: an error midway, a request decided by one and served by another, a certificate without its key | everything is built first and swapped once; one snapshot a request | `src/reload/mod.rs` | `a_bad_file_changes_nothing_and_says_why_wherever_one_asks`, `ten_reloads_a_second_break_no_request_and_each_is_served_by_one_generation`, `a_certificate_whose_key_does_not_fit_keeps_the_old_pair_and_all_the_rest` |
//! | A change of the configuration opens more than was meant | both configurations are asked about the same requests | `src/reload/diff/mod.rs` | `whatever_opens_a_route_is_told_with_a_request_that_shows_it`, `what_changes_about_an_issuer_is_told_for_the_routes_that_take_its_tokens`, `a_reload_says_what_it_opens_and_closes` |
//! | Roles outlive their source: a user who is removed, demoted or has another password keeps a session | sessions know what opened them, and follow it at once (R29) | `src/reload/sessions.rs` | `a_session_has_the_roles_that_its_user_has_now`, `the_sessions_of_a_user_who_is_gone_or_has_another_password_end`, `a_user_who_comes_back_under_the_same_id_is_not_the_one_who_logged_in` |
//! | What was verified or prepared before a reload counts after it | settings have generations, and caches ask for them | `src/reload/mod.rs` | `an_issuer_that_is_gone_counts_no_more_not_even_for_tokens_known_before`, `headers_prepared_under_earlier_settings_are_prepared_anew` |
//! | Somebody else gets a certificate for a host, or the gateway proves one that is not its own | proofs are up only while an order asks for them, for hosts of the configuration; nothing else is served with them | `src/acme/challenge.rs` | `while_a_proof_is_up_it_is_shown_for_its_host_only_and_nothing_else_is_served_with_it`, `a_file_is_shown_to_who_asks_its_host_for_its_token_and_everything_else_goes_on`, `where_no_proof_is_up_acme_tls_is_an_unknown_protocol` |
//! | An authority that is down, odd, hostile or strict takes a host off the air, or is asked without end, also by crashing | the last good certificate is served; attempts are on disk before they begin; waits grow | `src/acme/keeper.rs` | `a_renewal_that_fails_takes_nothing_away_and_is_tried_again`, `an_order_that_was_never_seen_to_its_end_is_not_repeated_at_once_by_whoever_starts_next`, `an_order_that_is_refused_is_repeated_when_the_authority_allows_and_no_sooner_also_after_a_restart` |
//! | A request comes back as the gateway's own: an upstream that leads to one of our listeners by a name, a mapped address or a link | the configuration is checked, and each connection when it is made | `src/upstream/connect.rs` | `own_listeners_are_no_upstreams`, `an_own_unix_socket_is_no_upstream_by_whatever_link`, `an_upstream_that_leads_to_one_of_our_own_listeners_is_refused` |
//! | The admin API through a browser or a rebound name | bearer only, scoped, `Origin` and `Host` checked, its own listener | `src/admin/guard.rs` | `browsers_and_rebound_names_are_refused`, `a_token_may_do_what_it_lists_and_nothing_else`, `the_admin_api_is_nowhere_else` |

pub mod accounts;
pub mod acme;
pub mod admin;
pub mod api_key;
pub mod authn;
pub mod authz;
pub mod certificate;
pub mod change;
pub mod cli;
pub mod client;
pub mod clock;

pub mod config;
pub mod cors;
pub mod csrf;
pub mod decide;
pub mod dns;
pub mod durable;
pub mod edge;
pub mod factor;
pub mod fetch;
mod frames;

pub mod gateway;
pub mod handover;
pub mod headers;
pub mod hints;
pub mod host;
pub mod id;
pub mod identity;
pub mod inbound;
pub mod listener;
pub mod login;
pub mod mtls;
pub mod openapi;
pub mod page;
pub mod pipeline;
pub mod policy;
pub mod rate_limit;
pub mod refresh;
pub mod refusal;
pub mod rehearsal;
pub mod reload;
pub mod revocation;
pub mod route;
pub mod secret;
pub mod service;
pub mod session;
pub mod shutdown;
pub mod signing;
pub mod state;
mod stream;
mod swar;
pub mod telemetry;
pub mod token;
pub mod upstream;
