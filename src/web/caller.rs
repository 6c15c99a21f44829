//! Who asks: the name that stands in the record of what was said.
//!
//! Whoever may connect may speak, over the socket or a loopback address, and is called as the
//! system calls the user whose process it is. This is the one place where a name comes in.

use std::net::SocketAddr;

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// A process of this user, over the socket.
    Socket {
        /// As the system says; `None` when it does not.
        uid: Option<u32>,
    },
    /// A process on this machine, over TCP.
    Tcp {
        /// Its end and ours; `None` when the connection is over already.
        ends: Option<(SocketAddr, SocketAddr)>,
    },
}

impl Caller {
    /// The name. Reads files of the system.
    pub(super) fn name(self) -> String {
        let uid = match self {
            Caller::Socket { uid } => uid,
            Caller::Tcp { ends } => ends.and_then(|(theirs, ours)| owner(theirs, ours)),
        };
        match (uid, self) {
            (Some(uid), _) => user_name(uid),
            (None, Caller::Socket { .. }) => "socket".to_owned(),
            (None, Caller::Tcp { .. }) => "loopback".to_owned(),
        }
    }
}

/// What the system calls a user; `uid-N` for one that it has no name for.
pub fn user_name(uid: u32) -> String {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    name_in(&users, uid).unwrap_or_else(|| format!("uid-{uid}"))
}

/// What the system calls the user of this process.
pub fn own_name() -> String {
    user_name(rustix::process::getuid().as_raw())
}

fn name_in(users: &str, uid: u32) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, of) = (fields.next()?, fields.next()?, fields.next()?);
        (of.parse() == Ok(uid) && !name.is_empty()).then(|| name.to_owned())
    })
}

/// Whose process holds the other end of a connection on this machine.
#[cfg(target_os = "linux")]
fn owner(theirs: SocketAddr, ours: SocketAddr) -> Option<u32> {
    let entries = match theirs {
        SocketAddr::V4(_) => procfs::net::tcp(),
        SocketAddr::V6(_) => procfs::net::tcp6(),
    };
    let entries = entries.ok()?;
    let found = entries
        .iter()
        .find(|entry| entry.local_address == theirs && entry.remote_address == ours);
    found.map(|entry| entry.uid)
}

#[cfg(not(target_os = "linux"))]
fn owner(_theirs: SocketAddr, _ours: SocketAddr) -> Option<u32> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_a_name() {
        let users = "root:x:0:0:root:/root:/bin/sh\nbad\nalice:x:1000:1000::/home/alice:/bin/sh\n";
        assert_eq!(name_in(users, 1000).as_deref(), Some("alice"));
        assert_eq!(name_in(users, 0).as_deref(), Some("root"));
        assert_eq!(name_in(users, 7), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_other_end_of_a_connection_has_an_owner() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let theirs = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_ours, peer) = listener.accept().unwrap();
        let uid = owner(peer, listener.local_addr().unwrap());
        assert_eq!(uid, Some(rustix::process::getuid().as_raw()));
        drop(theirs);
    }
}
