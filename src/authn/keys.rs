//! The keys of an issuer, and the algorithms they may be used with (R21).
//!
//! In: a PEM file, a JWK set (RFC 7517) or a shared secret, and the issuer's `algorithms`. Out: a [`KeySet`] whose
//! every key is checked, prepared, and bound to the algorithms that fit both it and the issuer's list, so a token
//! chooses among keys and never what a key is used for. HMAC and asymmetric keys are never in one set. Private keys
//! are refused: whoever verifies must not be able to sign. Keys for other purposes in a JWK set are passed over;
//! keys that are meant for signatures and malformed make the whole set an error.
//!
//! RFC 7518 section 3 (algorithms) and 6 (keys), RFC 8037 (EdDSA), RFC 5280 section 4.1 and RFC 8017 appendix A.1.1
//! (PEM contents).

use std::{
    fmt,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use aws_lc_rs::{
    digest, hmac,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519, ParsedPublicKey,
        RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
        RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
    },
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Map, Value};
use smallvec::{SmallVec, smallvec};
use zeroize::Zeroizing;

use super::{
    base64url,
    json::{self, JsonError},
};
use crate::secret;

/// A signature algorithm (RFC 7518 section 3.1, RFC 8037).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(missing_docs, reason = "the names are the registry's")]
pub enum Algorithm {
    EdDSA,
    ES256,
    ES384,
    ES512,
    HS256,
    HS384,
    HS512,
    PS256,
    PS384,
    PS512,
    RS256,
    RS384,
    RS512,
}

/// What kind of key an algorithm needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Family {
    /// A key on one of the NIST curves, which the algorithm fixes.
    Ecdsa,
    /// An Ed25519 key.
    Eddsa,
    /// A shared secret.
    Hmac,
    /// An RSA key, for PKCS #1 v1.5 and PSS alike.
    Rsa,
}

/// The name is none of the thirteen algorithms. `none` is not one of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UnknownAlgorithm;

/// The keys of one issuer. Immutable; a rotation makes a new one, which shares the keys that stay.
pub struct KeySet {
    keys: Box<[Arc<Key>]>,
    algorithms: AlgorithmSet,
    /// Names exactly these keys: what is wrong under them need not be wrong under others.
    generation: Generation,
}

/// Names one state of something that is replaced as a whole, unlike any other of anything, also across reloads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Generation(u128);

impl Generation {
    /// A new one, by chance and not by counting: nobody has to see to it that it is unique.
    pub fn fresh() -> Self {
        Self(u128::from_ne_bytes(secret::random()))
    }
}

/// Why keys cannot be used. `Display` says what is wrong and how to mend it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyError(pub String);

/// Why a set has no key for a token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unmatched {
    /// The issuer, or the key that `kid` names, does not sign with this algorithm.
    Algorithm,
    /// Without a `kid`, more than [`MAX_TRIED`] keys would have to be tried.
    Ambiguous,
    /// The issuer's keys are not known yet.
    Pending,
    /// No key has this `kid`, or none fits.
    Unknown,
}

/// Why a signature does not count.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum BadSignature {
    /// Not strict base64url.
    Encoding,
    /// Not the length that the algorithm and the key ask for.
    Length,
    /// Well-formed, and not made with this key over this input.
    Wrong,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::EdDSA,
        Self::ES256,
        Self::ES384,
        Self::ES512,
        Self::HS256,
        Self::HS384,
        Self::HS512,
        Self::PS256,
        Self::PS384,
        Self::PS512,
        Self::RS256,
        Self::RS384,
        Self::RS512,
    ];

    /// The registered name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EdDSA => "EdDSA",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::ES512 => "ES512",
            Self::HS256 => "HS256",
            Self::HS384 => "HS384",
            Self::HS512 => "HS512",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
        }
    }

    /// What kind of key it needs.
    pub const fn family(self) -> Family {
        match self {
            Self::EdDSA => Family::Eddsa,
            Self::ES256 | Self::ES384 | Self::ES512 => Family::Ecdsa,
            Self::HS256 | Self::HS384 | Self::HS512 => Family::Hmac,
            Self::PS256 | Self::PS384 | Self::PS512 | Self::RS256 | Self::RS384 | Self::RS512 => Family::Rsa,
        }
    }

    /// Bytes of the hash, and so the least length of an HMAC secret (RFC 7518 section 3.2).
    const fn hash_len(self) -> usize {
        match self {
            Self::ES256 | Self::HS256 | Self::PS256 | Self::RS256 => 32,
            Self::ES384 | Self::HS384 | Self::PS384 | Self::RS384 => 48,
            Self::EdDSA | Self::ES512 | Self::HS512 | Self::PS512 | Self::RS512 => 64,
        }
    }

    /// How a shared secret signs and verifies it; `None` for algorithms of other families.
    pub const fn hmac(self) -> Option<hmac::Algorithm> {
        match self {
            Self::HS256 => Some(hmac::HMAC_SHA256),
            Self::HS384 => Some(hmac::HMAC_SHA384),
            Self::HS512 => Some(hmac::HMAC_SHA512),
            Self::EdDSA
            | Self::ES256
            | Self::ES384
            | Self::ES512
            | Self::PS256
            | Self::PS384
            | Self::PS512
            | Self::RS256
            | Self::RS384
            | Self::RS512 => None,
        }
    }

    /// How an RSA key verifies it; `None` for algorithms of other families.
    const fn rsa(self) -> Option<&'static RsaParameters> {
        match self {
            Self::PS256 => Some(&RSA_PSS_2048_8192_SHA256),
            Self::PS384 => Some(&RSA_PSS_2048_8192_SHA384),
            Self::PS512 => Some(&RSA_PSS_2048_8192_SHA512),
            Self::RS256 => Some(&RSA_PKCS1_2048_8192_SHA256),
            Self::RS384 => Some(&RSA_PKCS1_2048_8192_SHA384),
            Self::RS512 => Some(&RSA_PKCS1_2048_8192_SHA512),
            Self::EdDSA | Self::ES256 | Self::ES384 | Self::ES512 | Self::HS256 | Self::HS384 | Self::HS512 => None,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    /// Exact names only. `Ed25519` (RFC 9864) is the newer, narrower name of what `EdDSA` means here.
    fn from_str(name: &str) -> Result<Self, UnknownAlgorithm> {
        if name == "Ed25519" {
            return Ok(Self::EdDSA);
        }
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name).ok_or(UnknownAlgorithm)
    }
}

impl fmt::Display for UnknownAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Algorithm::ALL.map(Algorithm::name);
        write!(f, "not a signature algorithm that is served; these are: {}", names.join(", "))
    }
}

impl std::error::Error for UnknownAlgorithm {}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for KeyError {}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| (key.kid.as_deref(), key.algorithms))).finish()
    }
}

impl KeySet {
    /// The set of an issuer that signs nothing for us: every token that says it is signed by it is void.
    pub fn none() -> Self {
        Self { keys: [].into(), algorithms: AlgorithmSet(0), generation: Generation::fresh() }
    }

    /// The set of an issuer whose keys are not known yet: its tokens can be neither accepted nor refused (R24).
    ///
    /// # Errors
    /// When `algorithms` is empty or mixes HMAC with others.
    pub fn pending(algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        Ok(Self { keys: [].into(), algorithms: AlgorithmSet::of_issuer(algorithms)?, generation: Generation::fresh() })
    }

    /// Public keys in PEM: `PUBLIC KEY` and `RSA PUBLIC KEY`, up to [`MAX_TRIED`] of them (all count, so that an old
    /// key can stay while a new one is brought in), or one `CERTIFICATE`, of which only the key is read.
    ///
    /// # Errors
    /// What is wrong with the file, a key in it or `algorithms`.
    pub fn from_pem(pem: &[u8], algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        let algorithms = AlgorithmSet::of_issuer(algorithms)?;
        algorithms.refuse_hmac("a public key")?;
        let blocks = pem_blocks(pem)?;
        if blocks.len() > 1 && blocks.iter().any(|block| block.label == "CERTIFICATE") {
            return error(
                "a certificate must be alone in its file: every key in the file may sign, and the keys of a \
                          chain's authorities must not; keep only the signer's certificate",
            );
        }
        let mut entries = Vec::with_capacity(blocks.len());
        for (index, block) in blocks.iter().enumerate() {
            let public = public_from_pem(block).map_err(|e| KeyError(format!("PEM block {}: {e}", index + 1)))?;
            let fitting = public.fitting().and(algorithms);
            if fitting.is_empty() {
                return error(format!(
                    "PEM block {}: {} fits none of the issuer's algorithms",
                    index + 1,
                    public.kind()
                ));
            }
            entries.push(Entry { kid: None, algorithms: fitting, public });
        }
        Self::build(entries, algorithms)
    }

    /// A JWK set (RFC 7517 section 5). Keys that are not for verifying signatures with one of the issuer's algorithms
    /// are passed over.
    ///
    /// # Errors
    /// When it is no JWK set in strict JSON; when a key is private, malformed, an RSA key below 2048 bits, or shares
    /// its `kid` with another; when it mixes HMAC with others; when no key is left.
    pub fn from_jwk_set(json: &[u8], algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        let algorithms = AlgorithmSet::of_issuer(algorithms)?;
        if json.len() > MAX_SET_BYTES {
            return error(format!("the key set has {} bytes; at most {MAX_SET_BYTES} are read", json.len()));
        }
        let set = json::object(json).map_err(|e| {
            KeyError(match e {
                JsonError::Duplicate => "a member occurs twice in one object of the key set".into(),
                JsonError::NotAnObject => "a key set is a JSON object with a member \"keys\"".into(),
                JsonError::Syntax => "the key set is not valid JSON".into(),
                JsonError::TooDeep => "the key set is nested too deeply".into(),
            })
        })?;
        let Some(Value::Array(keys)) = set.get("keys") else {
            return error("a key set is a JSON object with an array \"keys\" (a single key must be put into one)");
        };
        let mut entries: Vec<Entry> = Vec::new();
        let mut passed_over = Vec::new();
        for (index, jwk) in keys.iter().enumerate() {
            let place = match jwk.get("kid").and_then(Value::as_str) {
                Some(kid) => format!("key {} (kid {kid:?})", index + 1),
                None => format!("key {}", index + 1),
            };
            match entry_from_jwk(jwk, algorithms).map_err(|e| KeyError(format!("{place}: {e}")))? {
                Jwk::Usable(entry) => entries.push(entry),
                Jwk::PassedOver(why) => passed_over.push(format!("{place}: {why}")),
            }
        }
        if entries.is_empty() {
            let why = if passed_over.is_empty() { "it is empty".to_owned() } else { passed_over.join("; ") };
            return error(format!("no key of the set can verify the issuer's tokens: {why}"));
        }
        Self::build(entries, algorithms)
    }

    /// A shared secret for HS256, HS384, HS512.
    ///
    /// # Errors
    /// When it is shorter than the longest hash among `algorithms` (32, 48 or 64 bytes), or they are not all HMAC.
    pub fn from_secret(secret: &[u8], algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        let algorithms = AlgorithmSet::of_issuer(algorithms)?;
        if algorithms.and(AlgorithmSet::family(Family::Hmac)).is_empty() {
            return error(
                "a shared secret works with HS256, HS384 and HS512 only; the issuer's other algorithms need a \
                          public key",
            );
        }
        let public = Material::Secret(Zeroizing::new(secret.to_vec()));
        refuse_short_secret(secret.len(), algorithms)?;
        Self::build(vec![Entry { kid: None, algorithms, public }], algorithms)
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether the keys are not known yet.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys that may have signed a token with this header; never none, at most [`MAX_TRIED`].
    pub(super) fn select(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Candidates<'_>, Unmatched> {
        if !self.algorithms.contains(algorithm) {
            return Err(Unmatched::Algorithm);
        }
        if self.keys.is_empty() {
            return Err(Unmatched::Pending);
        }
        if let Some(named) = kid.and_then(|kid| self.keys.iter().find(|key| key.kid.as_deref() == Some(kid))) {
            let fits = named.algorithms.contains(algorithm);
            return if fits { Ok(smallvec![named]) } else { Err(Unmatched::Algorithm) };
        }
        // A key without a name (PEM, secret) may have made a token with any `kid`.
        let fits = |key: &&Arc<Key>| key.algorithms.contains(algorithm) && (kid.is_none() || key.kid.is_none());
        let candidates: Candidates<'_> = self.keys.iter().filter(fits).take(MAX_TRIED + 1).collect();
        match candidates.len() {
            0 => Err(Unmatched::Unknown),
            1..=MAX_TRIED => Ok(candidates),
            _ => Err(Unmatched::Ambiguous),
        }
    }

    fn build(entries: Vec<Entry>, algorithms: AlgorithmSet) -> Result<Self, KeyError> {
        let mut distinct: Vec<Entry> = Vec::with_capacity(entries.len());
        for entry in entries {
            match distinct.iter_mut().find(|other| other.kid == entry.kid && other.public == entry.public) {
                Some(same) => same.algorithms = same.algorithms.or(entry.algorithms),
                None => distinct.push(entry),
            }
        }
        for (index, entry) in distinct.iter().enumerate() {
            let earlier = distinct.get(..index).unwrap_or_default();
            if let Some(kid) = entry.kid.as_deref().filter(|_| earlier.iter().any(|other| other.kid == entry.kid)) {
                return error(format!("two different keys have the kid {kid:?}; a kid must name one key"));
            }
        }
        if distinct.len() > MAX_KEYS {
            return error(format!("the set has {} keys; at most {MAX_KEYS} are taken", distinct.len()));
        }
        let unnamed = distinct.iter().filter(|entry| entry.kid.is_none()).count();
        if unnamed > MAX_TRIED {
            return error(format!("{unnamed} keys have no kid; at most {MAX_TRIED} can be tried for each token"));
        }
        let keys = distinct.into_iter().map(|entry| Key::prepare(&entry).map(Arc::new)).collect::<Result<_, _>>()?;
        Ok(Self { keys, algorithms, generation: Generation::fresh() })
    }

    /// Names exactly these keys.
    pub(super) const fn generation(&self) -> Generation {
        self.generation
    }

    /// This set with the keys that `earlier` has too taken from there, so that what was verified with them still
    /// counts; `None` if there is no difference between the two.
    pub(super) fn adopting(&self, earlier: &Self) -> Option<Self> {
        if self.is_the_same(earlier) {
            return None;
        }
        let keys = self.keys.iter().map(|key| Arc::clone(earlier.find_same(key).unwrap_or(key))).collect();
        Some(Self { keys, algorithms: self.algorithms, generation: self.generation })
    }

    /// Whether it consists of the same keys for the same algorithms.
    fn is_the_same(&self, other: &Self) -> bool {
        self.algorithms == other.algorithms
            && self.keys.len() == other.keys.len()
            && self.keys.iter().all(|key| other.find_same(key).is_some())
    }

    fn find_same(&self, key: &Key) -> Option<&Arc<Key>> {
        self.keys.iter().find(|other| other.is_the_same(key))
    }

    /// Whether it holds this very key.
    fn holds(&self, key: &Arc<Key>) -> bool {
        self.keys.iter().any(|other| Arc::ptr_eq(other, key))
    }

    /// Ends what was verified with keys that `later` does not hold any more, at once; returns how many they are.
    pub(super) fn retire_for(&self, later: Option<&Self>) -> usize {
        let gone = self.keys.iter().filter(|key| !later.is_some_and(|later| later.holds(key)));
        gone.map(|key| key.tenure.retired.store(true, Ordering::Release)).count()
    }
}

/// Whether what was verified with a key still counts. On a cache line of its own: every request with a known token
/// reads it, while its reference count changes with each new one.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Tenure {
    retired: AtomicBool,
}

impl Tenure {
    /// Whether the key is still one of its issuer's.
    pub(super) fn holds(&self) -> bool {
        !self.retired.load(Ordering::Acquire)
    }
}

/// Keys to try for one token.
pub(super) type Candidates<'a> = SmallVec<[&'a Arc<Key>; MAX_TRIED]>;

/// One key, prepared.
pub(super) struct Key {
    kid: Option<Box<str>>,
    algorithms: AlgorithmSet,
    /// Bytes of a signature; `None`: the hash length of the algorithm (HMAC).
    signature_len: Option<usize>,
    check: Check,
    /// SHA-256 of what the key consists of.
    digest: [u8; 32],
    tenure: Arc<Tenure>,
}

/// What verifies.
enum Check {
    /// A public key, parsed once for each algorithm that it may be used with: aws-lc need not do it for each token.
    Public(SmallVec<[(Algorithm, ParsedPublicKey); 1]>),
    /// A shared secret, prepared for each algorithm: its half of the hashing is done once.
    Secret(Box<[(Algorithm, hmac::Key)]>),
}

impl Key {
    /// Whether `signature`, in base64url, is this key's over `input`.
    pub(super) fn verify(&self, algorithm: Algorithm, input: &[u8], signature: &[u8]) -> Result<(), BadSignature> {
        // The selection guarantees this; a key must not be used otherwise even if a caller forgets to select.
        if !self.algorithms.contains(algorithm) {
            return Err(BadSignature::Wrong);
        }
        if signature.len() != (self.signature_len.unwrap_or_else(|| algorithm.hash_len()) * 4).div_ceil(3) {
            return Err(BadSignature::Length);
        }
        let signature = base64url::decode(signature).ok_or(BadSignature::Encoding)?;
        // What is there is of the key's family, so the algorithm is too.
        let genuine = match &self.check {
            Check::Secret(keys) => of(keys, algorithm).is_some_and(|key| hmac::verify(key, input, &signature).is_ok()),
            Check::Public(keys) => of(keys, algorithm).is_some_and(|key| key.verify_sig(input, &signature).is_ok()),
        };
        if genuine { Ok(()) } else { Err(BadSignature::Wrong) }
    }

    /// Whether what it verified still counts.
    pub(super) const fn tenure(&self) -> &Arc<Tenure> {
        &self.tenure
    }

    fn is_the_same(&self, other: &Self) -> bool {
        self.digest == other.digest && self.kid == other.kid && self.algorithms == other.algorithms
    }

    fn prepare(entry: &Entry) -> Result<Self, KeyError> {
        let rejected = |_| KeyError(format!("{} is not valid", entry.public.kind()));
        let (signature_len, check) = match &entry.public {
            Material::Ec(curve, point) => {
                let (algorithm, parsed) = match curve {
                    Curve::P256 => (Algorithm::ES256, ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)),
                    Curve::P384 => (Algorithm::ES384, ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point)),
                    Curve::P521 => (Algorithm::ES512, ParsedPublicKey::new(&ECDSA_P521_SHA512_FIXED, point)),
                };
                let prepared = (algorithm, parsed.map_err(rejected)?);
                (Some(2 * curve.coordinate_len()), Check::Public(SmallVec::from_buf([prepared])))
            }
            Material::Ed25519(x) => {
                let prepared = (Algorithm::EdDSA, ParsedPublicKey::new(&ED25519, x).map_err(rejected)?);
                (Some(64), Check::Public(SmallVec::from_buf([prepared])))
            }
            Material::Rsa { n, e } => {
                let components = RsaPublicKeyComponents { n, e };
                // Also where no algorithm is left to use it with: a key that is malformed is an error all the same.
                components.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).map_err(rejected)?;
                let mut prepared = SmallVec::new();
                for algorithm in Algorithm::ALL.into_iter().filter(|algorithm| entry.algorithms.contains(*algorithm)) {
                    if let Some(parameters) = algorithm.rsa() {
                        prepared.push((algorithm, components.to_parsed_public_key(parameters).map_err(rejected)?));
                    }
                }
                (Some(n.len()), Check::Public(prepared))
            }
            Material::Secret(secret) => {
                let algorithms = Algorithm::ALL.into_iter().filter(|algorithm| entry.algorithms.contains(*algorithm));
                let prepared = |algorithm: Algorithm| Some((algorithm, hmac::Key::new(algorithm.hmac()?, secret)));
                (None, Check::Secret(algorithms.filter_map(prepared).collect()))
            }
        };
        let digest = entry.public.digest();
        let tenure = Arc::default();
        Ok(Self { kid: entry.kid.clone(), algorithms: entry.algorithms, signature_len, check, digest, tenure })
    }
}

/// What was prepared for this algorithm.
fn of<K>(prepared: &[(Algorithm, K)], algorithm: Algorithm) -> Option<&K> {
    prepared.iter().find(|(one, _)| *one == algorithm).map(|(_, key)| key)
}

/// The public key that a proof of possession brings along (RFC 9449 section 4.2).
pub(super) struct SenderKey {
    entry: Entry,
    thumbprint: [u8; 32],
}

impl SenderKey {
    /// Reads a JWK for one asymmetric algorithm. Whether the key exists on its curve is seen when it verifies.
    ///
    /// # Errors
    /// What is wrong with it: private members, another kind of key or use than the algorithm asks for, or an RSA key
    /// that is weak, or costly beyond [`MAX_SENDER_MODULUS`].
    pub(super) fn read(jwk: &Value, algorithm: Algorithm) -> Result<Self, KeyError> {
        // `k` is private only in keys of a kind that is refused, and nobody writes it into another.
        if jwk.get("k").is_some() {
            return error("a secret");
        }
        let entry = match entry_from_jwk(jwk, AlgorithmSet::EMPTY.with(algorithm))? {
            Jwk::Usable(entry) => entry,
            Jwk::PassedOver(why) => return error(why),
        };
        if let Material::Rsa { n, e } = &entry.public
            && (n.len() > MAX_SENDER_MODULUS || e.len() > MAX_SENDER_EXPONENT)
        {
            return error("an RSA key that costs too much to verify with");
        }
        let thumbprint = entry.public.thumbprint().ok_or_else(|| KeyError("a shared secret".into()))?;
        Ok(Self { entry, thumbprint })
    }

    /// SHA-256 as of RFC 7638.
    pub(super) const fn thumbprint(&self) -> &[u8; 32] {
        &self.thumbprint
    }

    /// Whether `signature`, in base64url, is this key's over `input`.
    ///
    /// # Errors
    /// What is wrong with the signature; `None` if the key itself is none.
    pub(super) fn verify(
        &self,
        algorithm: Algorithm,
        input: &[u8],
        signature: &[u8],
    ) -> Result<(), Option<BadSignature>> {
        let key = Key::prepare(&self.entry).map_err(|KeyError(_)| None)?;
        key.verify(algorithm, input, signature).map_err(Some)
    }
}

/// A set of algorithms.
#[derive(Clone, Copy, Eq, PartialEq)]
struct AlgorithmSet(u16);

impl AlgorithmSet {
    const EMPTY: Self = Self(0);

    /// An issuer's list: not empty, and HMAC only by itself, or else a public key could be taken for a secret.
    fn of_issuer(algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        let set = algorithms.iter().copied().fold(Self::EMPTY, Self::with);
        let hmac = set.and(Self::family(Family::Hmac));
        if set.is_empty() {
            return error("`algorithms` is empty; name those that the issuer signs with");
        }
        if !hmac.is_empty() && hmac != set {
            return error(
                "`algorithms` mixes HS256, HS384 or HS512 with others; an issuer has either a shared secret or \
                          public keys",
            );
        }
        Ok(set)
    }

    fn family(family: Family) -> Self {
        Algorithm::ALL.into_iter().filter(|algorithm| algorithm.family() == family).fold(Self::EMPTY, Self::with)
    }

    fn refuse_hmac(self, what: &str) -> Result<(), KeyError> {
        if self.and(Self::family(Family::Hmac)).is_empty() {
            return Ok(());
        }
        error(format!("{what} cannot verify HS256, HS384 or HS512: they need a shared secret"))
    }

    const fn with(self, algorithm: Algorithm) -> Self {
        Self(self.0 | 1 << algorithm as u16)
    }

    const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn contains(self, algorithm: Algorithm) -> bool {
        self.0 & 1 << algorithm as u16 != 0
    }

    const fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn iter(self) -> impl Iterator<Item = Algorithm> {
        Algorithm::ALL.into_iter().filter(move |&algorithm| self.contains(algorithm))
    }
}

impl fmt::Debug for AlgorithmSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// One key as read, with the algorithms that it and the issuer agree on.
struct Entry {
    kid: Option<Box<str>>,
    algorithms: AlgorithmSet,
    public: Material,
}

/// What a key consists of, in one form for all sources.
#[derive(PartialEq)]
enum Material {
    /// An uncompressed point (SEC 1 section 2.3.3).
    Ec(Curve, Vec<u8>),
    Ed25519([u8; 32]),
    /// Big-endian without leading zeros; 2048 to 8192 bits; `e` odd, 3 to 2³³ − 1.
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    Secret(Zeroizing<Vec<u8>>),
}

#[derive(Clone, Copy, PartialEq)]
enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    const fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    const fn coordinate_len(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }
}

impl Material {
    fn rsa(n: &[u8], e: &[u8]) -> Result<Self, KeyError> {
        let (n, e) = (without_leading_zeros(n), without_leading_zeros(e));
        let bits = n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize);
        if bits < 2048 {
            return error(format!("an RSA key of {bits} bits; at least 2048 are required (RFC 7518 section 3.3)"));
        }
        if bits > 8192 {
            return error(format!("an RSA key of {bits} bits; at most 8192 are served"));
        }
        let exponent = e.iter().take(8).fold(0_u64, |value, &byte| value << 8 | u64::from(byte));
        if e.len() > 5 || !(3..1 << 33).contains(&exponent) || exponent % 2 == 0 {
            return error("an RSA public exponent must be odd and between 3 and 2^33");
        }
        Ok(Self::Rsa { n: n.to_vec(), e: e.to_vec() })
    }

    fn ec(curve: Curve, point: &[u8]) -> Result<Self, KeyError> {
        if point.first() != Some(&4) || point.len() != 1 + 2 * curve.coordinate_len() {
            return error("an elliptic-curve key must be an uncompressed point of its curve's length");
        }
        Ok(Self::Ec(curve, point.to_vec()))
    }

    /// The algorithms for which such a key works.
    fn fitting(&self) -> AlgorithmSet {
        match self {
            Self::Ec(Curve::P256, _) => AlgorithmSet::EMPTY.with(Algorithm::ES256),
            Self::Ec(Curve::P384, _) => AlgorithmSet::EMPTY.with(Algorithm::ES384),
            Self::Ec(Curve::P521, _) => AlgorithmSet::EMPTY.with(Algorithm::ES512),
            Self::Ed25519(_) => AlgorithmSet::family(Family::Eddsa),
            Self::Rsa { .. } => AlgorithmSet::family(Family::Rsa),
            Self::Secret(_) => AlgorithmSet::family(Family::Hmac),
        }
    }

    /// Tells it from every other key.
    fn digest(&self) -> [u8; 32] {
        let (kind, parts): (u8, [&[u8]; 2]) = match self {
            Self::Ec(curve, point) => (*curve as u8, [point, &[]]),
            Self::Ed25519(x) => (3, [x, &[]]),
            Self::Rsa { n, e } => (4, [n, e]),
            Self::Secret(secret) => (5, [secret, &[]]),
        };
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&[kind]);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut sum = [0; 32];
        sum.copy_from_slice(context.finish().as_ref());
        sum
    }

    /// SHA-256 of the key's required members in the order and form of RFC 7638 section 3; `None` for a shared secret,
    /// which has no business in a name.
    fn thumbprint(&self) -> Option<[u8; 32]> {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let members = match self {
            Self::Ec(curve, point) => {
                let (x, y) = point.get(1..)?.split_at_checked(curve.coordinate_len())?;
                format!(r#"{{"crv":"{}","kty":"EC","x":"{}","y":"{}"}}"#, curve.name(), text(x), text(y))
            }
            Self::Ed25519(x) => format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, text(x)),
            Self::Rsa { n, e } => format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, text(e), text(n)),
            Self::Secret(_) => return None,
        };
        let mut sum = [0; 32];
        sum.copy_from_slice(digest::digest(&digest::SHA256, members.as_bytes()).as_ref());
        Some(sum)
    }

    const fn kind(&self) -> &'static str {
        match self {
            Self::Ec(Curve::P256, _) => "a P-256 key (for ES256)",
            Self::Ec(Curve::P384, _) => "a P-384 key (for ES384)",
            Self::Ec(Curve::P521, _) => "a P-521 key (for ES512)",
            Self::Ed25519(_) => "an Ed25519 key (for EdDSA)",
            Self::Rsa { .. } => "an RSA key (for RS256 to RS512 and PS256 to PS512)",
            Self::Secret(_) => "a shared secret (for HS256, HS384 and HS512)",
        }
    }
}

enum Jwk {
    Usable(Entry),
    PassedOver(String),
}

fn entry_from_jwk(jwk: &Value, allowed: AlgorithmSet) -> Result<Jwk, KeyError> {
    let Value::Object(jwk) = jwk else {
        return error("not a JSON object");
    };
    let kid = member(jwk, "kid")?;
    let kty = member(jwk, "kty")?.ok_or_else(|| KeyError("`kty` is missing".into()))?;
    if kty != "oct" && ["d", "p", "q", "dp", "dq", "qi", "oth"].iter().any(|name| jwk.contains_key(*name)) {
        return error(
            "a private key: the gateway verifies and must not be able to sign; give it the public key only, \
                      and replace this key if the file was readable to others",
        );
    }
    if let Some(used_for) = member(jwk, "use")?.filter(|used_for| *used_for != "sig") {
        return Ok(Jwk::PassedOver(format!("its use is {used_for:?}, not \"sig\"")));
    }
    if let Some(operations) = jwk.get("key_ops") {
        let operations = operations.as_array().ok_or_else(|| KeyError("`key_ops` is not an array".into()))?;
        if !operations.iter().any(|operation| operation == "verify") {
            return Ok(Jwk::PassedOver("its key_ops do not include \"verify\"".into()));
        }
    }
    let named = match member(jwk, "alg")? {
        None => None,
        Some(alg) => match alg.parse::<Algorithm>() {
            Ok(algorithm) => Some(algorithm),
            Err(UnknownAlgorithm) => return Ok(Jwk::PassedOver(format!("its alg {alg:?} is not served"))),
        },
    };
    let hmac_issuer = !allowed.and(AlgorithmSet::family(Family::Hmac)).is_empty();
    if (kty == "oct") != hmac_issuer {
        return if kty == "oct" {
            error("a shared secret among the keys of an issuer with public keys; it must not be in this set")
        } else {
            error("a public key, but the issuer's algorithms are HMAC: they need a secret (kty \"oct\")")
        };
    }
    let public = match kty {
        "EC" => {
            let curve = match required(jwk, "crv")? {
                "P-256" => Curve::P256,
                "P-384" => Curve::P384,
                "P-521" => Curve::P521,
                other => return Ok(Jwk::PassedOver(format!("its curve {other:?} is not served"))),
            };
            let (x, y) = (decoded(jwk, "x")?, decoded(jwk, "y")?);
            if x.len() != curve.coordinate_len() || y.len() != curve.coordinate_len() {
                return error(format!("`x` and `y` must have {} bytes each on this curve", curve.coordinate_len()));
            }
            Material::ec(curve, &[&[4], x.as_slice(), y.as_slice()].concat())?
        }
        "OKP" => match required(jwk, "crv")? {
            "Ed25519" => {
                let x = decoded(jwk, "x")?;
                let x = <[u8; 32]>::try_from(x.as_slice());
                Material::Ed25519(x.map_err(|_| KeyError("`x` must have 32 bytes on this curve".into()))?)
            }
            other => return Ok(Jwk::PassedOver(format!("its curve {other:?} is not served"))),
        },
        "RSA" => Material::rsa(&decoded(jwk, "n")?, &decoded(jwk, "e")?)?,
        "oct" => Material::Secret(decoded(jwk, "k")?),
        other => return Ok(Jwk::PassedOver(format!("its kty {other:?} is not served"))),
    };
    if let Some(algorithm) = named.filter(|&algorithm| !public.fitting().contains(algorithm)) {
        return error(format!("{}, but its alg is {algorithm}", public.kind()));
    }
    let fitting = named.map_or_else(|| public.fitting(), |algorithm| AlgorithmSet::EMPTY.with(algorithm)).and(allowed);
    if fitting.is_empty() {
        return Ok(Jwk::PassedOver("its algorithm is none of the issuer's".into()));
    }
    if let Material::Secret(secret) = &public {
        refuse_short_secret(secret.len(), fitting)?;
    }
    Ok(Jwk::Usable(Entry { kid: kid.map(Into::into), algorithms: fitting, public }))
}

fn member<'a>(jwk: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, KeyError> {
    match jwk.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            error(format!("`{name}` is not a string"))
        }
    }
}

fn required<'a>(jwk: &'a Map<String, Value>, name: &str) -> Result<&'a str, KeyError> {
    member(jwk, name)?.ok_or_else(|| KeyError(format!("`{name}` is missing")))
}

fn decoded(jwk: &Map<String, Value>, name: &str) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let bytes = URL_SAFE_NO_PAD.decode(required(jwk, name)?);
    bytes.map(Zeroizing::new).map_err(|_| KeyError(format!("`{name}` is not base64url without padding")))
}

fn refuse_short_secret(len: usize, algorithms: AlgorithmSet) -> Result<(), KeyError> {
    match algorithms.iter().find(|algorithm| len < algorithm.hash_len()) {
        None => Ok(()),
        Some(algorithm) => error(format!(
            "a secret of {len} bytes is too short for {algorithm}: at least {} random bytes are required (RFC 7518 \
             section 3.2)",
            algorithm.hash_len()
        )),
    }
}

/// One `-----BEGIN label-----` … `-----END label-----` (RFC 7468).
struct PemBlock<'a> {
    label: &'a str,
    der: Vec<u8>,
}

/// All blocks; text around them is explanation.
fn pem_blocks(pem: &[u8]) -> Result<Vec<PemBlock<'_>>, KeyError> {
    if pem.len() > MAX_SET_BYTES {
        return error(format!("the PEM file has {} bytes; at most {MAX_SET_BYTES} are read", pem.len()));
    }
    let text = std::str::from_utf8(pem).map_err(|_| KeyError("not a PEM file: it is not text".into()))?;
    let mut blocks = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let Some(label) = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")) else {
            continue;
        };
        let mut body = Zeroizing::new(String::new());
        loop {
            match lines.next() {
                None => return error(format!("the PEM block {label:?} has no end")),
                Some(line) if line.strip_prefix("-----END ").and_then(|l| l.strip_suffix("-----")) == Some(label) => {
                    break;
                }
                Some(line) => body.push_str(line),
            }
        }
        if label.ends_with("PRIVATE KEY") {
            return error(
                "a private key: the gateway verifies and must not be able to sign; give it the public key \
                          (openssl pkey -in private.pem -pubout), and replace this key if the file was readable to others",
            );
        }
        let der = STANDARD.decode(body.as_bytes());
        blocks.push(PemBlock {
            label,
            der: der.map_err(|_| KeyError(format!("the PEM block {label:?} is not base64")))?,
        });
    }
    if blocks.is_empty() {
        return error("no PEM block (-----BEGIN PUBLIC KEY-----) in it");
    }
    Ok(blocks)
}

fn public_from_pem(block: &PemBlock<'_>) -> Result<Material, KeyError> {
    match block.label {
        "PUBLIC KEY" => public_from_spki(&block.der),
        "RSA PUBLIC KEY" => rsa_from_pkcs1(&block.der),
        "CERTIFICATE" => {
            let spki = spki_of_certificate(&block.der);
            public_from_spki(spki.ok_or_else(|| KeyError("the certificate cannot be read".into()))?)
        }
        other => {
            error(format!("{other:?} is no public key; `PUBLIC KEY`, `RSA PUBLIC KEY` and `CERTIFICATE` are read"))
        }
    }
}

/// SubjectPublicKeyInfo (RFC 5280 section 4.1): SEQUENCE { SEQUENCE { algorithm, parameters }, BIT STRING }.
fn public_from_spki(der: &[u8]) -> Result<Material, KeyError> {
    let parts = || {
        let mut outer = Der::whole(der, SEQUENCE)?;
        let mut algorithm = Der(outer.take(SEQUENCE)?);
        let oid = algorithm.take(OBJECT_IDENTIFIER)?;
        let bits = outer.take(BIT_STRING)?.strip_prefix(&[0])?;
        outer.0.is_empty().then_some((oid, algorithm, bits))
    };
    let (oid, mut parameters, bits) = parts().ok_or_else(|| KeyError("the public key cannot be read".into()))?;
    match oid {
        OID_RSA => rsa_from_pkcs1(bits),
        OID_EC => match parameters.take(OBJECT_IDENTIFIER) {
            Some(OID_P256) => Material::ec(Curve::P256, bits),
            Some(OID_P384) => Material::ec(Curve::P384, bits),
            Some(OID_P521) => Material::ec(Curve::P521, bits),
            Some(_) | None => error("an elliptic-curve key on a curve that is not served (P-256, P-384, P-521 are)"),
        },
        OID_ED25519 => match <[u8; 32]>::try_from(bits) {
            Ok(x) => Ok(Material::Ed25519(x)),
            Err(_) => error("an Ed25519 key must have 32 bytes"),
        },
        _ => error(
            "a key of a type that is not served (RSA, EC and Ed25519 are; an RSASSA-PSS key must be given as a \
                    plain RSA key)",
        ),
    }
}

/// RSAPublicKey (RFC 8017 appendix A.1.1): SEQUENCE { INTEGER n, INTEGER e }.
fn rsa_from_pkcs1(der: &[u8]) -> Result<Material, KeyError> {
    let parts = || {
        let mut outer = Der::whole(der, SEQUENCE)?;
        let (n, e) = (outer.take(INTEGER)?, outer.take(INTEGER)?);
        let positive = |integer: &[u8]| integer.first().is_some_and(|first| *first < 0x80);
        (outer.0.is_empty() && positive(n) && positive(e)).then_some((n, e))
    };
    let (n, e) = parts().ok_or_else(|| KeyError("the RSA public key cannot be read".into()))?;
    Material::rsa(n, e)
}

/// The whole SubjectPublicKeyInfo of a certificate (RFC 5280 section 4.1): the seventh field, the version counted.
fn spki_of_certificate(der: &[u8]) -> Option<&[u8]> {
    let mut certificate = Der(Der::whole(der, SEQUENCE)?.take(SEQUENCE)?);
    if certificate.0.first() == Some(&VERSION) {
        certificate.take(VERSION)?;
    }
    certificate.take(INTEGER)?;
    for _signature_issuer_validity_subject in 0..4 {
        certificate.take(SEQUENCE)?;
    }
    let before = certificate.0;
    certificate.take(SEQUENCE)?;
    before.get(..before.len() - certificate.0.len())
}

/// Reads elements of distinguished encoding rules (X.690) one after the other.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The content of the one element that `der` must be.
    fn whole(der: &'a [u8], tag: u8) -> Option<Self> {
        let mut outer = Self(der);
        let content = outer.take(tag)?;
        outer.0.is_empty().then_some(Self(content))
    }

    /// The content of the next element, which must have this tag.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (&first, rest) = self.0.split_first()?;
        let (&short, mut rest) = rest.split_first()?;
        let len = match short {
            0..0x80 => usize::from(short),
            0x81..=0x84 => {
                let (digits, after) = rest.split_at_checked(usize::from(short - 0x80))?;
                rest = after;
                digits.iter().fold(0, |len, &digit| len << 8 | usize::from(digit))
            }
            0x80 | 0x85.. => return None,
        };
        let (content, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        (first == tag).then_some(content)
    }
}

fn without_leading_zeros(integer: &[u8]) -> &[u8] {
    let zeros = integer.iter().take_while(|&&byte| byte == 0).count();
    integer.get(zeros..).unwrap_or_default()
}

fn error<T>(text: impl Into<String>) -> Result<T, KeyError> {
    Err(KeyError(text.into()))
}

/// Signatures checked at most for one token.
const MAX_TRIED: usize = 4;

/// Bytes of the modulus of an RSA key that a client brings along: 4096 bits. Each request asks for one verification.
const MAX_SENDER_MODULUS: usize = 512;

/// Bytes of its exponent: 65537 has three.
const MAX_SENDER_EXPONENT: usize = 3;
/// Keys of one issuer.
const MAX_KEYS: usize = 256;
/// Bytes of a key set or PEM file.
const MAX_SET_BYTES: usize = 1 << 20;

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
/// `[0] EXPLICIT`, the optional version of a certificate.
const VERSION: u8 = 0xa0;

/// 1.2.840.113549.1.1.1
const OID_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// 1.2.840.10045.2.1
const OID_EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// 1.2.840.10045.3.1.7
const OID_P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// 1.3.132.0.34
const OID_P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
/// 1.3.132.0.35
const OID_P521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
/// 1.3.101.112
const OID_ED25519: &[u8] = &[0x2b, 0x65, 0x70];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::{super::signer::*, *};

    fn set(keys: &[Value], algorithms: &[Algorithm]) -> Result<KeySet, KeyError> {
        KeySet::from_jwk_set(json!({ "keys": keys }).to_string().as_bytes(), algorithms)
    }

    fn with(mut jwk: Value, members: Value) -> Value {
        for (name, value) in members.as_object().unwrap() {
            jwk[name] = value.clone();
        }
        jwk
    }

    fn refusal(result: Result<KeySet, KeyError>, expect: &str) {
        let text = result.expect_err(expect).to_string();
        assert!(text.contains(expect), "{text:?} does not say {expect:?}");
    }

    /// Whether a signature of `signer` is accepted by the keys that `kid` selects.
    fn accepts(keys: &KeySet, kid: Option<&str>, signer: &Signer) -> Result<bool, Unmatched> {
        let signature = URL_SAFE_NO_PAD.encode(signer.sign(b"input"));
        let candidates = keys.select(kid, signer.algorithm)?;
        Ok(candidates.iter().any(|key| key.verify(signer.algorithm, b"input", signature.as_bytes()).is_ok()))
    }

    /// RFC 7515 appendix A, RFC 7520 section 4, RFC 8037 appendix A.4. Most of them are no JWTs, so that no gateway
    /// could show that their signatures are found good.
    #[test]
    fn the_signatures_of_the_rfcs_are_good_and_what_is_near_them_is_not() {
        let examples: Vec<Value> =
            serde_json::from_str(include_str!("../../tests/gateway/rfc/examples.json")).expect("the examples");
        for example in &examples {
            let algorithm: Algorithm = example["algorithm"].as_str().unwrap().parse().unwrap();
            let mut key = example["key"].clone();
            let keys = match key["k"].as_str() {
                Some(k) => KeySet::from_secret(&URL_SAFE_NO_PAD.decode(k).unwrap(), &[algorithm]).unwrap(),
                None => {
                    key.as_object_mut()
                        .unwrap()
                        .retain(|name, _| !["d", "p", "q", "dp", "dq", "qi"].contains(&&**name));
                    set(&[key.clone()], &[algorithm]).unwrap()
                }
            };
            let (input, signature) = example["token"].as_str().unwrap().rsplit_once('.').unwrap();
            let kid = key["kid"].as_str().filter(|_| key["k"].is_null());
            let good = |input: &str, signature: &str| {
                let candidates = keys.select(kid, algorithm).unwrap();
                candidates.iter().any(|key| key.verify(algorithm, input.as_bytes(), signature.as_bytes()).is_ok())
            };
            let name = &example["example"];
            let first = if signature.starts_with('A') { "B" } else { "A" };

            assert!(good(input, signature), "{name}");
            assert!(!good(&input[1..], signature) && !good(&format!("{input}A"), signature), "{name}: another input");
            assert!(!good(input, &format!("{first}{}", &signature[1..])), "{name}: another signature");
        }
        assert_eq!(examples.len(), 9);
    }

    #[test]
    fn names_of_algorithms_are_exact() {
        for algorithm in Algorithm::ALL {
            assert_eq!(algorithm.to_string().parse(), Ok(algorithm));
        }
        assert_eq!("Ed25519".parse(), Ok(Algorithm::EdDSA));
        for unknown in ["none", "rs256", "RS256 ", "", "ES256K", "Ed448"] {
            assert_eq!(unknown.parse::<Algorithm>(), Err(UnknownAlgorithm), "{unknown}");
        }
    }

    #[test]
    fn a_key_of_every_kind_is_read_as_pem_and_as_jwk() {
        for algorithm in Algorithm::ALL {
            let signer = Signer::new(algorithm);
            let jwk = set(&[with(signer.jwk(), json!({ "kid": "k", "use": "sig" }))], &[algorithm]).unwrap();

            assert_eq!(accepts(&signer.keys(), None, &signer), Ok(true), "{algorithm}");
            assert_eq!(accepts(&signer.keys(), Some("any"), &signer), Ok(true), "{algorithm}");
            assert_eq!(accepts(&jwk, Some("k"), &signer), Ok(true), "{algorithm}");
            assert_eq!(accepts(&jwk, None, &signer), Ok(true), "{algorithm}");
            assert_eq!(accepts(&jwk, Some("other"), &signer), Err(Unmatched::Unknown), "{algorithm}");
        }
    }

    #[test]
    fn pem_holds_an_rsa_public_key_or_the_key_of_a_certificate() {
        let rsa = Signer::new(Algorithm::RS256);
        let pkcs1 = KeySet::from_pem(pem("RSA PUBLIC KEY", &rsa.pkcs1()).as_bytes(), &[Algorithm::RS256]).unwrap();
        assert_eq!(accepts(&pkcs1, None, &rsa), Ok(true));

        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = rcgen::CertificateParams::new(["id.example".to_owned()]).unwrap().self_signed(&pair).unwrap();
        assert!(spki_of_certificate(certificate.der()).is_some_and(|spki| spki.ends_with(pair.public_key_raw())));
        let keys = KeySet::from_pem(certificate.pem().as_bytes(), &[Algorithm::ES256]).unwrap();
        assert_eq!(keys.len(), 1);

        let chain = format!("{0}{0}", certificate.pem());
        refusal(KeySet::from_pem(chain.as_bytes(), &[Algorithm::ES256]), "must be alone");
        refusal(KeySet::from_pem(pair.serialize_pem().as_bytes(), &[Algorithm::ES256]), "a private key");
    }

    #[test]
    fn several_public_keys_in_one_pem_all_count() {
        let (old, new) = (Signer::new(Algorithm::ES256), Signer::new(Algorithm::ES256));
        let text = format!("the old one\n{}\nthe new one\n{}", old.pem(), new.pem());
        let keys = KeySet::from_pem(text.as_bytes(), &[Algorithm::ES256]).unwrap();

        assert_eq!(accepts(&keys, None, &old), Ok(true));
        assert_eq!(accepts(&keys, Some("x"), &new), Ok(true));
        assert_eq!(accepts(&keys, None, &Signer::new(Algorithm::ES256)), Ok(false));
        let five: String = (0..5).map(|_| Signer::new(Algorithm::ES256).pem()).collect();
        refusal(KeySet::from_pem(five.as_bytes(), &[Algorithm::ES256]), "at most 4");
    }

    #[test]
    fn pem_that_is_no_fitting_public_key_is_refused() {
        let es256 = Signer::new(Algorithm::ES256);
        let rows: &[(&str, &[Algorithm], &str)] = &[
            ("", &[Algorithm::ES256], "no PEM block"),
            ("-----BEGIN PUBLIC KEY-----\nAAAA", &[Algorithm::ES256], "has no end"),
            ("-----BEGIN PUBLIC KEY-----\n%\n-----END PUBLIC KEY-----", &[Algorithm::ES256], "not base64"),
            ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", &[Algorithm::ES256], "cannot be read"),
            ("-----BEGIN EC PARAMETERS-----\nAAAA\n-----END EC PARAMETERS-----", &[Algorithm::ES256], "no public key"),
            ("-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----", &[Algorithm::RS256], "private"),
            (&es256.pem(), &[Algorithm::RS256], "fits none"),
            (&es256.pem(), &[Algorithm::ES384], "fits none"),
            (&es256.pem(), &[Algorithm::HS256], "shared secret"),
            (&es256.pem(), &[Algorithm::ES256, Algorithm::HS256], "mixes"),
            (&es256.pem(), &[], "empty"),
        ];
        for (text, algorithms, expect) in rows {
            refusal(KeySet::from_pem(text.as_bytes(), algorithms), expect);
        }
        let mut off_curve = es256.spki();
        *off_curve.last_mut().unwrap() ^= 1;
        refusal(KeySet::from_pem(pem("PUBLIC KEY", &off_curve).as_bytes(), &[Algorithm::ES256]), "not valid");
        let trailing = [es256.spki(), vec![0]].concat();
        refusal(KeySet::from_pem(pem("PUBLIC KEY", &trailing).as_bytes(), &[Algorithm::ES256]), "cannot be read");
    }

    #[test]
    fn keys_for_other_purposes_are_passed_over() {
        let (good, other) = (Signer::new(Algorithm::ES256), Signer::new(Algorithm::ES256));
        let passed_over = [
            with(other.jwk(), json!({ "kid": "a", "use": "enc" })),
            with(other.jwk(), json!({ "kid": "b", "key_ops": ["sign"] })),
            with(Signer::new(Algorithm::RS256).jwk(), json!({ "kid": "c", "alg": "RSA-OAEP" })),
            with(Signer::new(Algorithm::RS256).jwk(), json!({ "kid": "d", "alg": "RS256" })),
            json!({ "kty": "OKP", "crv": "X25519", "x": "AAAA", "kid": "e" }),
            json!({ "kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA", "kid": "f" }),
            json!({ "kty": "future", "kid": "g" }),
        ];
        let wanted = with(good.jwk(), json!({ "kid": "ok", "key_ops": ["verify"], "alg": "ES256" }));
        let keys = set(&[&passed_over[..], &[wanted]].concat(), &[Algorithm::ES256]).unwrap();

        assert_eq!((keys.len(), accepts(&keys, Some("ok"), &good)), (1, Ok(true)));
        assert_eq!(accepts(&keys, Some("a"), &other), Err(Unmatched::Unknown));
        refusal(set(&passed_over, &[Algorithm::ES256]), "its use is \"enc\"");
        refusal(set(&[], &[Algorithm::ES256]), "it is empty");
    }

    #[test]
    fn malformed_and_dangerous_keys_make_the_set_an_error() {
        let es256 = Signer::new(Algorithm::ES256);
        let rsa = Signer::new(Algorithm::RS256);
        let oct = Signer::new(Algorithm::HS256);
        let weak = URL_SAFE_NO_PAD.encode([0xff; 128]);
        let rows: &[(Value, &[Algorithm], &str)] = &[
            (with(es256.jwk(), json!({ "d": "AAAA" })), &[Algorithm::ES256], "a private key"),
            (with(rsa.jwk(), json!({ "d": "AA", "use": "enc" })), &[Algorithm::RS256], "a private key"),
            (with(rsa.jwk(), json!({ "n": weak })), &[Algorithm::RS256], "1024 bits"),
            (with(rsa.jwk(), json!({ "e": "AQ" })), &[Algorithm::RS256], "exponent"),
            (with(rsa.jwk(), json!({ "e": "AQAA" })), &[Algorithm::RS256], "exponent"),
            (with(rsa.jwk(), json!({ "n": "AA==" })), &[Algorithm::RS256], "not base64url"),
            (with(rsa.jwk(), json!({ "alg": "ES256" })), &[Algorithm::RS256], "but its alg is ES256"),
            (with(rsa.jwk(), json!({ "kid": 1 })), &[Algorithm::RS256], "`kid` is not a string"),
            (with(es256.jwk(), json!({ "x": "AAAA" })), &[Algorithm::ES256], "32 bytes"),
            (with(es256.jwk(), json!({ "x": es256.jwk()["y"] })), &[Algorithm::ES256], "not valid"),
            (json!({ "kty": "EC", "crv": "P-256", "x": "AAAA" }), &[Algorithm::ES256], "`y` is missing"),
            (json!({ "crv": "P-256" }), &[Algorithm::ES256], "`kty` is missing"),
            (json!("key"), &[Algorithm::ES256], "not a JSON object"),
            (oct.jwk(), &[Algorithm::ES256], "must not be in this set"),
            (es256.jwk(), &[Algorithm::HS256], "need a secret"),
            (json!({ "kty": "oct", "k": "AAAA" }), &[Algorithm::HS256], "too short"),
        ];
        for (jwk, algorithms, expect) in rows {
            refusal(set(std::slice::from_ref(jwk), algorithms), expect);
        }
        refusal(KeySet::from_jwk_set(b"{\"keys\":[],\"keys\":[]}", &[Algorithm::ES256]), "twice");
        refusal(KeySet::from_jwk_set(b"[]", &[Algorithm::ES256]), "JSON object");
        refusal(KeySet::from_jwk_set(es256.jwk().to_string().as_bytes(), &[Algorithm::ES256]), "array \"keys\"");
        refusal(KeySet::from_jwk_set(b"{", &[Algorithm::ES256]), "not valid JSON");
    }

    #[test]
    fn one_kid_names_one_key() {
        let (one, other) = (Signer::new(Algorithm::ES256), Signer::new(Algorithm::ES256));
        let named = |signer: &Signer| with(signer.jwk(), json!({ "kid": "k" }));
        let rsa = with(Signer::new(Algorithm::RS256).jwk(), json!({ "kid": "r" }));
        let (rs256, ps256) = (with(rsa.clone(), json!({ "alg": "RS256" })), with(rsa, json!({ "alg": "PS256" })));

        refusal(set(&[named(&one), named(&other)], &[Algorithm::ES256]), "two different keys have the kid \"k\"");
        assert_eq!(set(&[named(&one), named(&one)], &[Algorithm::ES256]).unwrap().len(), 1);
        let both = set(&[rs256, ps256], &[Algorithm::RS256, Algorithm::PS256]).unwrap();
        assert_eq!(accepts(&both, Some("r"), &Signer::new(Algorithm::RS256)), Ok(true));
        assert_eq!(accepts(&both, Some("r"), &Signer::new(Algorithm::PS256)), Ok(true));
    }

    #[test]
    fn the_algorithm_belongs_to_the_key() {
        let rsa = Signer::new(Algorithm::RS256);
        let only_rs256 = with(rsa.jwk(), json!({ "kid": "k", "alg": "RS256" }));
        let keys = set(&[only_rs256], &[Algorithm::RS256, Algorithm::PS256]).unwrap();

        assert_eq!(accepts(&keys, Some("k"), &rsa), Ok(true));
        assert_eq!(accepts(&keys, Some("k"), &Signer::new(Algorithm::PS256)), Err(Unmatched::Algorithm));
        assert_eq!(accepts(&keys, None, &Signer::new(Algorithm::PS256)), Err(Unmatched::Unknown));
        assert_eq!(keys.select(Some("k"), Algorithm::ES256).err(), Some(Unmatched::Algorithm));
    }

    #[test]
    fn without_a_kid_a_few_keys_are_tried_and_no_more() {
        let signers: Vec<Signer> = (0..5).map(|_| Signer::new(Algorithm::ES256)).collect();
        let jwks: Vec<Value> =
            signers.iter().enumerate().map(|(i, signer)| with(signer.jwk(), json!({ "kid": i.to_string() }))).collect();
        let four = set(&jwks[..4], &[Algorithm::ES256]).unwrap();
        let five = set(&jwks, &[Algorithm::ES256]).unwrap();

        assert_eq!(accepts(&four, None, &signers[3]), Ok(true));
        assert_eq!(accepts(&four, Some("2"), &signers[3]), Ok(false));
        assert_eq!(accepts(&five, None, &signers[3]), Err(Unmatched::Ambiguous));
        assert_eq!(accepts(&five, Some("3"), &signers[3]), Ok(true));
    }

    #[test]
    fn a_secret_is_as_long_as_the_hash() {
        let bytes = [7; 64];
        for (algorithm, len) in [(Algorithm::HS256, 32), (Algorithm::HS384, 48), (Algorithm::HS512, 64)] {
            assert!(KeySet::from_secret(&bytes[..len], &[algorithm]).is_ok());
            refusal(KeySet::from_secret(&bytes[..len - 1], &[algorithm]), "too short");
        }
        refusal(KeySet::from_secret(&bytes[..32], &[Algorithm::HS256, Algorithm::HS512]), "too short for HS512");
        refusal(KeySet::from_secret(&bytes, &[Algorithm::RS256]), "public key");
        refusal(KeySet::from_secret(&bytes, &[Algorithm::HS256, Algorithm::RS256]), "mixes");
    }

    #[test]
    fn a_key_set_does_not_print_its_keys() {
        let signer = Signer::new(Algorithm::HS256);
        let secret = signer.jwk()["k"].as_str().unwrap().to_owned();
        let keys = set(&[with(signer.jwk(), json!({ "kid": "k" }))], &[Algorithm::HS256]).unwrap();

        assert_eq!(format!("{keys:?}"), r#"[(Some("k"), {HS256})]"#);
        assert!(!format!("{keys:?}").contains(&secret));
    }

    proptest! {
        #[test]
        fn arbitrary_der_never_panics(der in proptest::collection::vec(any::<u8>(), 0..120), flip in any::<prop::sample::Index>()) {
            let _ = (public_from_spki(&der), rsa_from_pkcs1(&der), spki_of_certificate(&der));
            let mut changed = Signer::new(Algorithm::ES256).spki();
            let place = flip.index(changed.len());
            changed[place] ^= der.first().copied().unwrap_or(1);
            let _ = (public_from_spki(&changed), public_from_spki(&changed[..place]));
        }
    }
}
