//! Names: of meshes, nodes and logs, and the ids that derive from their cause.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Longest name of a mesh or node, bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 255;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $min:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name, or `None` when its length in bytes is out of range.
            pub fn parse(text: &str) -> Option<Self> {
                ($min..=NAME_BYTES_MAX).contains(&text.len()).then(|| $name(text.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> {
                $name::parse(&text).ok_or_else(|| {
                    format!("a name of {} bytes, expected {} to {NAME_BYTES_MAX}", text.len(), $min)
                })
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// A mesh or fleet: 1..=255 bytes; empty only for what belongs to no single mesh
    /// ([`MeshId::none`]).
    MeshId,
    0
);
name!(
    /// A node of a mesh: 1..=255 bytes.
    NodeId,
    1
);

impl MeshId {
    /// The empty mesh id: events of no single mesh, a policy or hold for all meshes.
    pub fn none() -> Self {
        MeshId("".into())
    }

    /// Whether this is the empty mesh id.
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }
}

/// A node is its mesh and its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeKey {
    /// The mesh.
    pub mesh: MeshId,
    /// The node's name within it.
    pub node: NodeId,
}

impl fmt::Display for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.mesh, self.node)
    }
}

/// SHA-256 of a policy's text: the policy's name.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PolicyId(pub [u8; 32]);

impl PolicyId {
    /// The id of a policy's text.
    pub fn of(text: &str) -> Self {
        PolicyId(Sha256::digest(text.as_bytes()).into())
    }
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What an id names; its first letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdKind {
    /// A directive.
    Directive,
    /// An incident.
    Incident,
    /// Something withheld.
    Withheld,
    /// A hold.
    Hold,
}

/// An id made of its cause, so that doing the work twice gives the same name.
///
/// `dir-1042-0f3a9c12b77d`: the kind, the seq of the event that made it, and the first 6 bytes of
/// SHA-256(`log_id`, mesh, seq, kind) with each text preceded by its length as u32 big-endian. (Not
/// of its own bytes: a directive holds its id.)
pub fn derive_id(kind: IdKind, log_id: &str, mesh: &MeshId, seq: i64) -> String {
    let word = match kind {
        IdKind::Directive => "dir",
        IdKind::Incident => "inc",
        IdKind::Withheld => "wh",
        IdKind::Hold => "hold",
    };
    let mut hash = Sha256::new();
    for text in [log_id, mesh.as_str(), word] {
        hash.update((text.len() as u32).to_be_bytes());
        hash.update(text);
    }
    hash.update(seq.to_be_bytes());
    let digest = hash.finalize();
    let tail: String = digest[..6]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{word}-{seq}-{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_depends_on_log_mesh_kind_and_seq_only() {
        let mesh = |m| MeshId::parse(m).unwrap();
        let id = derive_id(IdKind::Directive, "l", &mesh("m"), 7);
        assert!(id.starts_with("dir-7-") && id.len() == 18, "{id}");
        assert_eq!(id, derive_id(IdKind::Directive, "l", &mesh("m"), 7));
        assert_ne!(id, derive_id(IdKind::Directive, "lm", &mesh(""), 7));
        assert_ne!(id, derive_id(IdKind::Directive, "k", &mesh("m"), 7));
    }

    #[test]
    fn names_have_bounds() {
        assert!(NodeId::parse("").is_none());
        assert!(NodeId::parse(&"n".repeat(255)).is_some());
        assert!(NodeId::parse(&"n".repeat(256)).is_none());
        assert!(MeshId::parse("").unwrap().is_none());
    }
}
