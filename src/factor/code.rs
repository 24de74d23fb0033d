//! Codes that are used once and are too long to guess: recovery codes, and the code that lets somebody enrol.
//!
//! 80 random bits each, so that a plain hash keeps them: there is nothing to try out (NIST SP 800-63B section 5.1.2.2
//! asks for salts below 112 bits only where guessing offline is worth it; the hash is bound to the account instead).

use aws_lc_rs::digest::{Context, SHA256};
use zeroize::Zeroizing;

use super::{Account, base32};
use crate::secret;

/// A code, to be shown to one person once.
pub struct Code(Zeroizing<[u8; LEN]>);

/// What is kept of a code.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hashed(pub(super) [u8; 32]);

impl Code {
    /// A new one.
    pub fn generate() -> Self {
        Self(Zeroizing::new(secret::random()))
    }

    /// What somebody typed, blanks, hyphens and case aside; `None` if it is no code.
    pub fn parse(typed: &str) -> Option<Self> {
        let bytes = Zeroizing::new(base32::decode(typed)?);
        bytes.as_slice().try_into().ok().map(|bytes| Self(Zeroizing::new(bytes)))
    }

    /// As it is shown.
    pub fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(base32::grouped(&base32::encode(&*self.0)).replace(' ', "-"))
    }

    /// What is kept: good for this account and purpose only.
    pub fn hash(&self, account: &Account, purpose: Purpose) -> Hashed {
        let mut context = Context::new(&SHA256);
        context.update(purpose.label());
        context.update(&account.key());
        context.update(&[0]);
        context.update(&*self.0);
        Hashed(context.finish().as_ref().try_into().unwrap_or([0; 32]))
    }
}

impl Hashed {
    /// In constant time.
    pub fn matches(&self, other: &Self) -> bool {
        secret::constant_time_eq(&self.0, &other.0)
    }
}

/// What a code is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// To enrol.
    Enrolment,
    /// To log in without the app.
    Recovery,
}

impl Purpose {
    const fn label(self) -> &'static [u8] {
        match self {
            Self::Enrolment => b"portcullis enrolment code\0",
            Self::Recovery => b"portcullis recovery code\0",
        }
    }
}

const LEN: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_as_people_type_it_and_belongs_to_one_account() {
        let account = Account::new("staff", "alice");
        let code = Code::generate();
        let text = code.text();
        assert_eq!((text.len(), text.matches('-').count()), (19, 3));
        let kept = code.hash(&account, Purpose::Recovery);

        for typed in
            [text.to_string(), text.to_lowercase(), text.replace('-', ""), format!(" {} ", text.replace('-', " "))]
        {
            let read = Code::parse(&typed).unwrap_or_else(|| panic!("{typed}"));
            assert!(kept.matches(&read.hash(&account, Purpose::Recovery)), "{typed}");
        }
        let same = || Code::parse(&text).unwrap();
        assert!(!kept.matches(&same().hash(&account, Purpose::Enrolment)));
        assert!(!kept.matches(&same().hash(&Account::new("staff", "bob"), Purpose::Recovery)));
        assert!(!kept.matches(&same().hash(&Account::new("other", "alice"), Purpose::Recovery)));
        for typed in ["", "123456", "ABCD-EFGH-IJKL-MNO", "ABCD-EFGH-IJKL-MNOP-Q", "ABCD-EFGH-IJKL-MN01"] {
            assert!(Code::parse(typed).is_none(), "{typed}");
        }
    }
}
