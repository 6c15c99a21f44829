//! Who is asking, and may they: the one place where the door decides it.
//!
//! 1. Over the socket it is who may open it: the folder's owner, who may all. Over TCP, as long as
//!    no `[[token]]` is configured, it is whoever is on this machine, who may all.
//! 2. Else a request shows a token (`Authorization: Bearer ..`) or its connection a client
//!    certificate with a configured name; what shows neither, or one that is not known, is answered
//!    401. `/livez` and `/readyz` alone are open to everyone.
//! 3. [`needs`] says what a route needs, [`Asker::may`] whether the role has it (403). What a
//!    request may see of the meshes, and for whom it may speak, its route asks the [`Asker`].
//! 4. [`Access::reload`] takes all of it anew or nothing. A follower whose token or certificate
//!    went ends ([`Access::holds`]); other requests under way end as they began.
//!
//! Tokens are kept and compared as SHA-256, each with all, in a time that does not depend on them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use axum::http::{HeaderMap, Method, StatusCode, header};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};
use tokio::sync::watch;

use crate::config::secret::read_token;
use crate::config::settings::{Role, Settings, TokenSettings};
use crate::model::{MeshId, NodeId};

use super::answer::Refusal;
use super::routes::Via;
use super::server::{WebError, address};
use super::tls::{Peer, Tls};

/// Who may come to a door.
pub struct Access {
    current: watch::Sender<Arc<Keys>>,
    address: SocketAddr,
}

/// Who may come, as it was read last.
#[derive(Default)]
pub(super) struct Keys {
    askers: Vec<Arc<Asker>>,
    tls: Option<Tls>,
}

/// One who asks, and what they may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asker {
    /// What the log and records call them.
    pub(super) name: String,
    /// What they may do.
    pub(super) role: Role,
    /// The meshes that they may see and speak of.
    pub(super) meshes: Meshes,
    /// The one node that they may speak for.
    pub(super) node: Option<NodeId>,
    proof: Proof,
}

/// Some of the meshes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meshes {
    /// All of them, and what is of no single one.
    All,
    /// These.
    These(BTreeSet<MeshId>),
}

/// What shows who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Proof {
    /// The way by which it came.
    Way(Via),
    /// A token's SHA-256.
    Token([u8; 32]),
    /// A DNS name in a client certificate, and which authorities' (their file's SHA-256).
    Certificate(String, Option<[u8; 32]>),
}

/// What a route needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// Nothing.
    Nothing,
    /// That one is known, whatever the role.
    Known,
    /// To report: ingest, operate.
    Report,
    /// To read: read, operate.
    Read,
    /// To decide: operate.
    Decide,
}

/// What a route needs. A path that is no route needs that one is known: what is there is nobody
/// else's affair.
pub(super) fn needs(route: &str, method: &Method) -> Needs {
    let reads = [Method::GET, Method::HEAD, Method::OPTIONS].contains(method);
    match route {
        "/livez" | "/readyz" => Needs::Nothing,
        "/v1" | "/v1/" | "/v1/directives" => Needs::Known,
        "/v1/metrics" | "/v1/outcomes" => Needs::Report,
        "/v1/policy" | "/v1/approvals" | "/v1/holds" | "/v1/backup" if !reads => Needs::Decide,
        "/" | "/metrics" => Needs::Read,
        route if route.starts_with("/v1/") => Needs::Read,
        _ => Needs::Known,
    }
}

impl Access {
    /// Reads who may come to the door of these settings, and its certificates.
    ///
    /// # Errors
    /// The address is none, or a token or certificate cannot be used; or there are none, and the
    /// address is not loopback.
    pub fn read(settings: &Settings) -> Result<Access, WebError> {
        let address = address(&settings.web.listen)?;
        let keys = Keys::read(settings, address)?;
        Ok(Access {
            current: watch::Sender::new(Arc::new(keys)),
            address,
        })
    }

    /// Reads tokens and certificates again. Connections go on; what they ask next is held against
    /// what was read.
    ///
    /// # Errors
    /// Something of it cannot be used, or TLS would begin or end: then all stays as it was.
    pub fn reload(&self, settings: &Settings) -> Result<(), WebError> {
        let keys = Keys::read(settings, self.address)?;
        if keys.tls.is_some() != self.tls().is_some() {
            return Err(WebError::Speech);
        }
        self.current.send_replace(Arc::new(keys));
        Ok(())
    }

    /// Where the door is to listen.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many tokens and certificates may come.
    pub fn count(&self) -> usize {
        self.current.borrow().askers.len()
    }

    /// Whether who comes over TCP must show something.
    pub(super) fn is_guarded(&self) -> bool {
        self.count() > 0
    }

    /// What a connection over TCP is spoken through.
    pub(super) fn tls(&self) -> Option<Tls> {
        self.current.borrow().tls.clone()
    }

    /// Says when all was read again.
    pub(super) fn changes(&self) -> watch::Receiver<Arc<Keys>> {
        self.current.subscribe()
    }

    /// Who is asking.
    ///
    /// # Errors
    /// Nobody that is known (401).
    pub(super) fn who(
        &self,
        via: Via,
        headers: &HeaderMap,
        peer: Option<&Peer>,
    ) -> Result<Arc<Asker>, Refusal> {
        let keys = self.current.borrow().clone();
        if via == Via::Socket || keys.askers.is_empty() {
            return Ok(Arc::new(Asker::owner(via)));
        }
        let unknown = |what: &str| {
            Refusal::new(
                StatusCode::UNAUTHORIZED,
                format!(
                    "{what}: expected a token of a [[token]] entry, as -H 'Authorization: Bearer \
                     TOKEN', or a client certificate that one names; who runs the door adds one \
                     and sends it SIGHUP"
                ),
            )
        };
        if let Some(given) = headers.get(header::AUTHORIZATION) {
            let token = bearer(given.as_bytes())
                .ok_or_else(|| unknown("the Authorization header bears no token"))?;
            return keys
                .of_token(token)
                .ok_or_else(|| unknown("the token is not known here"));
        }
        match peer {
            None => Err(unknown("no token was shown")),
            Some(peer) => keys
                .of_certificate(peer)
                .ok_or_else(|| unknown("no token was shown, and no entry names the certificate")),
        }
    }

    /// Whether who asked some time ago may still come, as they could then.
    pub(super) fn holds(&self, asker: &Asker) -> bool {
        let keys = self.current.borrow();
        match &asker.proof {
            Proof::Way(Via::Socket) => true,
            Proof::Way(Via::Tcp) => keys.askers.is_empty(),
            Proof::Token(_) | Proof::Certificate(..) => {
                keys.askers.iter().any(|known| **known == *asker)
            }
        }
    }
}

impl Keys {
    fn read(settings: &Settings, address: SocketAddr) -> Result<Keys, WebError> {
        let tls = Tls::read(&settings.web)?;
        let ca = tls.as_ref().and_then(Tls::client_ca);
        let mut askers: Vec<Arc<Asker>> = Vec::new();
        for token in &settings.token {
            let asker = Asker::read(token, ca)?;
            let same = askers.iter().find(|other| other.proof == asker.proof);
            if let Some(other) = same {
                return Err(WebError::Same {
                    one: other.name.clone(),
                    other: asker.name,
                });
            }
            askers.push(Arc::new(asker));
        }
        if askers.is_empty() && !address.ip().is_loopback() {
            return Err(WebError::Open { address });
        }
        Ok(Keys { askers, tls })
    }

    /// Whose token this is. Every one is compared, and each in the same time.
    fn of_token(&self, token: &[u8]) -> Option<Arc<Asker>> {
        let shown: [u8; 32] = Sha256::digest(token).into();
        let mut found = Choice::from(0);
        let mut at = 0_u64;
        for (i, asker) in (0..).zip(&self.askers) {
            if let Proof::Token(hash) = &asker.proof {
                let same = hash[..].ct_eq(&shown[..]);
                at = u64::conditional_select(&at, &i, same);
                found |= same;
            }
        }
        let asker = self.askers.get(usize::try_from(at).ok()?)?;
        bool::from(found).then(|| asker.clone())
    }

    fn of_certificate(&self, peer: &Peer) -> Option<Arc<Asker>> {
        let is_of = |asker: &&Arc<Asker>| match &asker.proof {
            Proof::Certificate(name, ca) => *ca == peer.ca && peer.names.contains(name),
            Proof::Token(_) | Proof::Way(_) => false,
        };
        self.askers.iter().find(is_of).cloned()
    }
}

impl Asker {
    /// Who needs to show nothing.
    pub(super) fn owner(via: Via) -> Asker {
        Asker {
            name: via.name().to_owned(),
            role: Role::Operate,
            meshes: Meshes::All,
            node: None,
            proof: Proof::Way(via),
        }
    }

    /// Whether an entry names them; else it is who needed to show nothing.
    pub(super) fn is_named(&self) -> bool {
        !matches!(self.proof, Proof::Way(_))
    }

    fn read(token: &TokenSettings, ca: Option<[u8; 32]>) -> Result<Asker, WebError> {
        let proof = match token.certificate.is_empty() {
            false => Proof::Certificate(token.certificate.to_ascii_lowercase(), ca),
            true => {
                let secret = read_token("token.file", Path::new(&token.file))?;
                Proof::Token(Sha256::digest(secret).into())
            }
        };
        let mut meshes = Meshes::These(BTreeSet::new());
        for mesh in &token.meshes {
            match (mesh.as_str(), MeshId::parse(mesh), &mut meshes) {
                (ALL, _, _) => meshes = Meshes::All,
                (_, Some(mesh), Meshes::These(these)) => {
                    these.insert(mesh);
                }
                // With all of them there is none to add; no other is a name.
                (_, Some(_), Meshes::All) | (_, None, _) => {}
            }
        }
        Ok(Asker {
            name: token.name.clone(),
            role: token.role,
            meshes,
            node: NodeId::parse(&token.node),
            proof,
        })
    }

    /// Whether the role has what a route needs.
    ///
    /// # Errors
    /// It has not (403).
    pub(super) fn may(&self, needs: Needs, method: &Method, path: &str) -> Result<(), Refusal> {
        let roles: &[Role] = match needs {
            Needs::Nothing | Needs::Known => return Ok(()),
            Needs::Report => &[Role::Ingest, Role::Operate],
            Needs::Read => &[Role::Read, Role::Operate],
            Needs::Decide => &[Role::Operate],
        };
        if roles.contains(&self.role) {
            return Ok(());
        }
        let names: Vec<&str> = roles.iter().map(|role| role.name()).collect();
        Err(self.forbidden(&format!(
            "{method} {path} needs the role {}, {:?} has {}",
            names.join(" or "),
            self.name,
            self.role.name()
        )))
    }

    /// Whether they may see a mesh; the empty one is seen by who sees all.
    pub(super) fn sees(&self, mesh: &MeshId) -> bool {
        self.sees_named(mesh.as_str().as_bytes())
    }

    /// The same by the mesh's name.
    pub(super) fn sees_named(&self, mesh: &[u8]) -> bool {
        match &self.meshes {
            Meshes::All => true,
            Meshes::These(these) => these.iter().any(|seen| seen.as_str().as_bytes() == mesh),
        }
    }

    /// Whether they may read what is for a node; who may speak for one only reads of that only.
    pub(super) fn hears(&self, mesh: &MeshId, node: &NodeId) -> bool {
        self.sees(mesh) && self.node.as_ref().is_none_or(|own| own == node)
    }

    /// Whether they may see and name every mesh.
    ///
    /// # Errors
    /// They may not (403): `what` is of all of them.
    pub(super) fn sees_all(&self, what: &str) -> Result<(), Refusal> {
        match &self.meshes {
            Meshes::All => Ok(()),
            Meshes::These(_) => Err(self.forbidden(&format!(
                "{what} is of all meshes, {:?} may see some",
                self.name
            ))),
        }
    }

    /// The mesh to be looked at when this one is asked for, or all that may be seen: one is enough
    /// to look at where no other may.
    ///
    /// # Errors
    /// It may not be seen (403).
    pub(super) fn of(&self, asked: Option<MeshId>) -> Result<Option<MeshId>, Refusal> {
        match (asked, &self.meshes) {
            (Some(mesh), _) => {
                self.ensure_sees(&mesh)?;
                Ok(Some(mesh))
            }
            (None, Meshes::These(these)) if these.len() == 1 => Ok(these.first().cloned()),
            (None, _) => Ok(None),
        }
    }

    /// Lets who may see a mesh pass.
    ///
    /// # Errors
    /// They may not (403).
    pub(super) fn ensure_sees(&self, mesh: &MeshId) -> Result<(), Refusal> {
        match self.sees(mesh) {
            true => Ok(()),
            false => Err(self.forbidden(&format!(
                "mesh {:?} is none of those that {:?} may see",
                mesh.as_str(),
                self.name
            ))),
        }
    }

    /// Whether they may speak for a node.
    ///
    /// # Errors
    /// Why not, as a line's reason, and the field that says for whom they spoke.
    pub(super) fn speaks_for(
        &self,
        mesh: &str,
        node: &str,
    ) -> Result<(), (&'static str, &'static str)> {
        if !self.sees_named(mesh.as_bytes()) {
            return Err(("other_mesh", "mesh_id"));
        }
        match &self.node {
            Some(own) if own.as_str() != node => Err(("other_node", "node_id")),
            _ => Ok(()),
        }
    }

    /// The answer (403) to who may not, and why not.
    pub(super) fn forbidden(&self, why: &str) -> Refusal {
        Refusal::new(
            StatusCode::FORBIDDEN,
            format!(
                "{why}: ask with another token, or have who runs the door widen the [[token]] \
                 entry and send it SIGHUP"
            ),
        )
    }
}

/// The token of an `Authorization` header.
fn bearer(given: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = given.split_at_checked(BEARER.len())?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(BEARER) && !token.is_empty()).then_some(token)
}

const BEARER: &[u8] = b"Bearer ";

/// What stands for every mesh.
const ALL: &str = "*";

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(role: Role, meshes: &[&str], node: &str) -> Asker {
        let meshes = meshes.iter().map(|mesh| MeshId::parse(mesh).unwrap());
        Asker {
            name: "one".into(),
            role,
            meshes: Meshes::These(meshes.collect()),
            node: NodeId::parse(node),
            proof: Proof::Token([7; 32]),
        }
    }

    #[test]
    fn every_role_may_what_it_says_and_no_more() {
        let check = |method: Method, path: &str, roles: &str| {
            for (role, letter) in [(Role::Ingest, 'i'), (Role::Read, 'r'), (Role::Operate, 'o')] {
                let asker = asker(role, &["m"], "");
                let may = asker.may(needs(path, &method), &method, path);
                assert_eq!(
                    may.is_ok(),
                    roles.contains(letter),
                    "{method} {path} {role:?}"
                );
            }
        };
        for (path, roles) in [
            ("/", "ro"),
            ("/livez", "iro"),
            ("/readyz", "iro"),
            ("/metrics", "ro"),
            ("/v1", "iro"),
            ("/v1/", "iro"),
            ("/v1/events", "ro"),
            ("/v1/directives", "iro"),
            ("/v1/cycles", "ro"),
            ("/v1/nodes", "ro"),
            ("/v1/nodes/{mesh}/{node}", "ro"),
            ("/v1/incidents", "ro"),
            ("/v1/explain/{id}", "ro"),
            ("/v1/topology", "ro"),
            ("/v1/log", "ro"),
            ("/v1/log/copies/{stage}/{id}", "ro"),
            ("/v1/policy", "ro"),
            ("/v1/approvals", "ro"),
            ("/v1/holds", "ro"),
            ("/v1/what/comes", "ro"),
            ("/elsewhere", "iro"),
        ] {
            check(Method::GET, path, roles);
        }
        for (path, roles) in [
            ("/v1/metrics", "io"),
            ("/v1/outcomes", "io"),
            ("/v1/policy", "o"),
            ("/v1/approvals", "o"),
            ("/v1/holds", "o"),
            ("/v1/backup", "o"),
        ] {
            check(Method::POST, path, roles);
            check(Method::PUT, path, roles);
        }
    }

    #[test]
    fn one_sees_and_speaks_for_what_the_entry_names() {
        let mesh = |name: &str| MeshId::parse(name).unwrap();
        let some = asker(Role::Ingest, &["a", "b"], "");
        assert!(some.sees(&mesh("a")) && some.sees(&mesh("b")));
        assert!(!some.sees(&mesh("c")) && !some.sees(&MeshId::none()));
        assert_eq!(some.of(None), Ok(None));
        assert_eq!(some.of(Some(mesh("b"))), Ok(Some(mesh("b"))));
        assert_eq!(some.of(Some(mesh("c"))).unwrap_err().status, 403);
        assert!(some.sees_all("the log").is_err());
        assert_eq!(some.speaks_for("a", "n"), Ok(()));
        assert_eq!(some.speaks_for("c", "n"), Err(("other_mesh", "mesh_id")));
        let own = asker(Role::Ingest, &["a"], "n");
        assert_eq!(own.of(None), Ok(Some(mesh("a"))));
        assert_eq!(own.speaks_for("a", "n"), Ok(()));
        assert_eq!(own.speaks_for("a", "m"), Err(("other_node", "node_id")));
        let node = |name: &str| NodeId::parse(name).unwrap();
        assert!(own.hears(&mesh("a"), &node("n")) && some.hears(&mesh("a"), &node("m")));
        assert!(!own.hears(&mesh("a"), &node("m")) && !own.hears(&mesh("b"), &node("n")));
        let owner = Asker::owner(Via::Socket);
        assert!(owner.sees(&MeshId::none()) && owner.sees_all("the log").is_ok());
        assert_eq!(owner.speaks_for("z", "z"), Ok(()));
    }

    #[test]
    fn a_token_stands_behind_its_scheme() {
        for (given, token) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("Bearer ", None),
            ("Bearer", None),
            ("Basic abc", None),
            ("", None),
        ] {
            assert_eq!(
                bearer(given.as_bytes()),
                token.map(str::as_bytes),
                "{given}"
            );
        }
    }

    #[test]
    fn each_token_is_its_owners() {
        let hashed = |name: &str| {
            let hash = Sha256::digest(format!("{name}-0123456789abcdef"));
            Arc::new(Asker {
                name: name.to_owned(),
                proof: Proof::Token(hash.into()),
                ..asker(Role::Read, &["m"], "")
            })
        };
        let keys = Keys {
            askers: ["first", "second", "third"].map(hashed).into(),
            tls: None,
        };
        for name in ["first", "second", "third"] {
            let token = format!("{name}-0123456789abcdef");
            let found = keys
                .of_token(token.as_bytes())
                .map(|asker| asker.name.clone());
            assert_eq!(found.as_deref(), Some(name));
        }
        for wrong in ["", "first", "fourth-0123456789abcdef"] {
            assert_eq!(keys.of_token(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(Keys::default().of_token(b"first-0123456789abcdef"), None);
    }
}
