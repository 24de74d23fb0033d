//! One order, from the account to the certificate (RFC 8555 section 7.4).
//!
//! In: settings, a host, the account if there is one. Out: a certificate with its key, checked to be good for the host;
//! or why there is none. Nothing here decides when to order, and nothing is remembered but through what is handed in.

use std::{sync::Arc, time::Duration};

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, ExternalAccountKey, Identifier, NewAccount, NewOrder, Order,
    OrderStatus, Problem,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use zeroize::Zeroizing;

use super::{
    ChallengeKind, Challenges, Failure, KeyType, Settings, Why, challenge::Posted, http::Http, record::AccountRecord,
};
use crate::{certificate::Certificate, clock::Clock, fetch::FetchError, host::Host};

/// What is ordered.
pub(super) struct Wish {
    pub(super) settings: Arc<Settings>,
    pub(super) host: Host,
    /// How it is proved this time, if it is not proved yet.
    pub(super) kind: ChallengeKind,
    pub(super) challenges: Arc<Challenges>,
    pub(super) clock: Clock,
}

/// What is issued.
pub(super) struct Issued {
    pub(super) certificate: Certificate,
    /// PEM, leaf first.
    pub(super) chain: String,
    /// PEM.
    pub(super) key: Zeroizing<String>,
}

/// An account to order with.
pub(super) struct Opened {
    account: Account,
    http: Http,
}

/// Finds the account again, or makes one; then with what is to be kept of it.
pub(super) async fn open(
    settings: &Settings,
    known: Option<&AccountRecord>,
    clock: &Clock,
) -> Result<(Opened, Option<AccountRecord>), Failure> {
    let http = Http::new(settings.client.clone(), clock.clone());
    let builder = Account::builder_with_http(Box::new(http.clone()));
    let contact: Vec<&str> = settings.contact.iter().map(|contact| &**contact).collect();
    let external = settings.external_account.as_ref();
    let told = |error| failure(error, &http, Why::Account);
    let kept = |credentials: String| AccountRecord {
        credentials,
        contact: contact.iter().map(|contact| (*contact).to_owned()).collect(),
        external: external.map(|account| account.id.to_string()),
    };
    let known = known.filter(|known| known.external.as_deref() == external.map(|account| &*account.id));
    if let Some(known) = known {
        let credentials = serde_json::from_str(&known.credentials)
            .map_err(|_| Failure::new(Why::Account, "what was kept of the account is damaged"))?;
        let account = builder.from_credentials(credentials).await.map_err(told)?;
        let mut renewed = None;
        if known.contact != contact {
            account.update_contacts(&contact).await.map_err(|error| failure(error, &http, Why::Account))?;
            renewed = Some(kept(known.credentials.clone()));
        }
        return Ok((Opened { account, http }, renewed));
    }
    let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let external = external.map(|account| ExternalAccountKey::new(account.id.to_string(), account.key.expose()));
    let made = builder.create(&new, settings.directory.to_string(), external.as_ref()).await;
    let (account, credentials) = made.map_err(told)?;
    let credentials = serde_json::to_string(&credentials)
        .map_err(|_| Failure::new(Why::Account, "the account cannot be written down"))?;
    Ok((Opened { account, http }, Some(kept(credentials))))
}

/// Whether the authority does not know the account any more.
pub(super) fn is_gone(failure: &Failure) -> bool {
    failure.why == Why::Account && failure.cause.contains(ACCOUNT_GONE)
}

/// Orders, proves, and fetches.
pub(super) async fn order(wish: &Wish, opened: &Opened) -> Result<Issued, Failure> {
    let work = Box::pin(prove_and_fetch(wish, opened));
    tokio::time::timeout(LONGEST_ORDER, work)
        .await
        .unwrap_or_else(|_| Err(Failure::new(Why::NotProved, "the authority did not come to an end with it in time")))
}

async fn prove_and_fetch(wish: &Wish, Opened { account, http }: &Opened) -> Result<Issued, Failure> {
    let told = |error| failure(error, http, Why::Refused);
    let identifiers = [Identifier::Dns(wish.host.as_str().to_owned())];
    let mut order = account.new_order(&NewOrder::new(&identifiers)).await.map_err(told)?;
    let posted = prove(wish, &mut order, http).await?;
    settle(&mut order, http, |status| status != OrderStatus::Pending).await?;
    if order.state().status == OrderStatus::Invalid {
        return Err(why_not_proved(&mut order, wish, http).await);
    }
    drop(posted);

    let (csr, key) = request(&wish.host, wish.settings.key_type)?;
    if order.state().status == OrderStatus::Ready {
        order.finalize_csr(&csr).await.map_err(told)?;
    }
    settle(&mut order, http, |status| matches!(status, OrderStatus::Valid | OrderStatus::Invalid)).await?;
    let chain = order.certificate().await.map_err(told)?;
    let chain = chain.ok_or_else(|| Failure::new(Why::Refused, "the order ended without a certificate"))?;
    judge(wish, chain, key)
}

/// Puts up a proof for whatever of the order is not proved yet, and says that it is there.
async fn prove(wish: &Wish, order: &mut Order, http: &Http) -> Result<Vec<Posted>, Failure> {
    let told = |error| failure(error, http, Why::Refused);
    let mut posted = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(told)?;
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            status @ (AuthorizationStatus::Invalid
            | AuthorizationStatus::Revoked
            | AuthorizationStatus::Expired
            | AuthorizationStatus::Deactivated) => {
                let cause = format!("the authority gave us an authorization that is {status:?} already");
                return Err(Failure::new(Why::Refused, cause.to_lowercase()));
            }
        }
        let kind = match wish.kind {
            ChallengeKind::Http01 => ChallengeType::Http01,
            ChallengeKind::TlsAlpn01 => ChallengeType::TlsAlpn01,
        };
        let Some(mut challenge) = authorization.challenge(kind) else {
            let cause = format!("the authority does not offer {}", wish.kind.name());
            return Err(Failure::new(Why::Refused, cause));
        };
        let text = challenge.key_authorization();
        posted.push(match wish.kind {
            ChallengeKind::Http01 => wish.challenges.post_http(&wish.host, &challenge.token, text.as_str()),
            ChallengeKind::TlsAlpn01 => wish
                .challenges
                .post_tls(&wish.host, text.digest().as_ref())
                .map_err(|cause| Failure::new(Why::Refused, cause))?,
        });
        challenge.set_ready().await.map_err(|error| failure(error, http, Why::NotProved))?;
    }
    Ok(posted)
}

/// Asks for the order until it is as wanted, as seldom as the authority says.
async fn settle(order: &mut Order, http: &Http, wanted: impl Fn(OrderStatus) -> bool) -> Result<(), Failure> {
    let mut pause = FIRST_LOOK;
    while !wanted(order.state().status) {
        tokio::time::sleep(pause.max(http.asked_to_wait().unwrap_or_default().min(LONGEST_LOOK))).await;
        pause = (pause * 2).min(SLOWEST_LOOK);
        order.refresh().await.map_err(|error| failure(error, http, Why::Refused))?;
    }
    Ok(())
}

/// What the authority found when it looked for the proof.
async fn why_not_proved(order: &mut Order, wish: &Wish, http: &Http) -> Failure {
    let mut cause = order.state().error.as_ref().map(Problem::to_string);
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if let Ok(state) = authorization.refresh().await {
            let error = state.challenges.iter().find_map(|challenge| challenge.error.as_ref());
            cause = error.map(Problem::to_string).or(cause);
        }
    }
    let cause = cause.unwrap_or_else(|| "the authority does not say why".to_owned());
    let mut failure = Failure::new(Why::NotProved, format!("{}: {cause}", wish.kind.name()));
    failure.retry_after = http.asked_to_wait();
    failure
}

/// A request for a certificate (RFC 2986) and its key in PEM.
fn request(host: &Host, key_type: KeyType) -> Result<(Vec<u8>, Zeroizing<String>), Failure> {
    let told = |error: rcgen::Error| Failure::new(Why::Refused, format!("no request can be made: {error}"));
    let algorithm = match key_type {
        KeyType::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
        KeyType::EcdsaP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
    };
    let pair = KeyPair::generate_for(algorithm).map_err(told)?;
    let mut params = CertificateParams::new(vec![host.as_str().to_owned()]).map_err(told)?;
    params.distinguished_name = DistinguishedName::new();
    let csr = params.serialize_request(&pair).map_err(told)?;
    Ok((csr.der().to_vec(), Zeroizing::new(pair.serialize_pem())))
}

/// What cannot be served is worse than what is served already.
fn judge(wish: &Wish, chain: String, key: Zeroizing<String>) -> Result<Issued, Failure> {
    let unfit =
        |why: String| Failure::new(Why::Refused, format!("the certificate that was issued is of no use: {why}"));
    let certificate = Certificate::from_pem(&chain, &key).map_err(|error| unfit(error.to_string()))?;
    if !certificate.covers(&wish.host) {
        return Err(unfit("it is not for this host".to_owned()));
    }
    if certificate.not_after() <= wish.clock.now() {
        return Err(unfit("it has ended already; is this machine's clock right?".to_owned()));
    }
    Ok(Issued { certificate, chain, key })
}

/// `otherwise`: what it is if the authority's answer is about what was asked.
fn failure(error: Error, http: &Http, otherwise: Why) -> Failure {
    let (why, cause) = match &error {
        Error::Api(problem) => {
            let kind = problem.r#type.as_deref().unwrap_or_default();
            let why = match kind.rsplit(':').next().unwrap_or_default() {
                "rateLimited" => Why::RateLimited,
                "accountDoesNotExist"
                | "externalAccountRequired"
                | "userActionRequired"
                | "invalidContact"
                | "unsupportedContact" => Why::Account,
                // Of an order, `unauthorized` is about the account too: it was deactivated.
                "unauthorized" if otherwise == Why::Refused => Why::Account,
                "serverInternal" | "badNonce" => Why::Away,
                _ => otherwise,
            };
            (why, problem.to_string())
        }
        Error::Other(other) => match other.downcast_ref::<FetchError>() {
            Some(FetchError::Tls(why)) => (Why::Away, format!("TLS failed with the directory: {why}")),
            Some(fetch) => (Why::Away, format!("the directory: {fetch}")),
            None => (Why::Away, error.to_string()),
        },
        Error::Json(_) => (Why::Away, "what answered is no ACME directory, or not a working one".to_owned()),
        Error::Crypto | Error::KeyRejected => (Why::Account, error.to_string()),
        _ => (otherwise, error.to_string()),
    };
    Failure { retry_after: http.asked_to_wait(), ..Failure::new(why, cause) }
}

const ACCOUNT_GONE: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

const LONGEST_ORDER: Duration = Duration::from_secs(300);
const FIRST_LOOK: Duration = Duration::from_millis(250);
const SLOWEST_LOOK: Duration = Duration::from_secs(5);
/// An authority that asks for more patience is asked all the same; the order has an end of its own.
const LONGEST_LOOK: Duration = Duration::from_secs(60);
