//! The Merkle tree of RFC 6962, section 2.1: roots, and proofs that a leaf is in a tree and that a
//! tree continues another.
//!
//! 1. A leaf's hash is SHA-256(00 || its bytes), a node's SHA-256(01 || left || right), an empty
//!    tree's SHA-256 of nothing: no leaf can pass for a node.
//! 2. A tree of n leaves splits at the largest power of two below n. Nothing is padded and no node
//!    doubled, so a tree and its size say the same leaves.
//! 3. A [`Frontier`] holds the roots of the full subtrees of a growing tree, one per bit of its
//!    size, which is all that the next leaf needs.
//! 4. A proof is strict: it has exactly as many hashes as its sizes ask for, none left, none
//!    missing.

use sha2::{Digest, Sha256};

/// A SHA-256.
pub type Hash = [u8; 32];

/// Most hashes of any proof: sizes are below 2^63.
pub const PROOF_HASHES_MAX: usize = 63;

/// Why a proof proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The sizes cannot be: index at or beyond the size, an older tree larger than the newer, or
    /// 2^63 and more.
    #[error("proving {what} {first} in a tree of size {size}: expected less, below 2^63")]
    Sizes {
        /// `leaf` or `size`.
        what: &'static str,
        /// The leaf's index or the older size.
        first: u64,
        /// The newer size.
        size: u64,
    },
    /// Another number of hashes than these sizes need.
    #[error("a proof of {got} hashes, expected {expected}")]
    Length {
        /// How many there are.
        got: usize,
        /// How many there must be.
        expected: usize,
    },
    /// The hashes lead to another root.
    #[error("the proof leads to another root than the {which} tree's")]
    Root {
        /// `older` or `newer`.
        which: &'static str,
    },
}

/// The hash of a leaf.
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    let mut hash = Sha256::new_with_prefix([0x00]);
    hash.update(leaf);
    hash.finalize().into()
}

/// The hash of a node.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut hash = Sha256::new_with_prefix([0x01]);
    hash.update(left);
    hash.update(right);
    hash.finalize().into()
}

/// The root of a tree over leaf hashes: MTH.
pub fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Sha256::digest([]).into(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node_hash(&root(left), &root(right))
        }
    }
}

/// A growing tree: its size and the roots of its full subtrees, the largest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    roots: Vec<Hash>,
}

impl Frontier {
    /// Adds a leaf's bytes.
    pub fn push(&mut self, leaf: &[u8]) {
        self.push_hash(leaf_hash(leaf));
    }

    /// Adds a leaf's hash.
    pub fn push_hash(&mut self, leaf: Hash) {
        // Each full subtree of one size with a twin to its left becomes one of twice the size.
        let twins = self.size.trailing_ones() as usize;
        let alone = self.roots.len() - twins;
        let merged = self.roots.drain(alone..).rev();
        let root = merged.fold(leaf, |right, left| node_hash(&left, &right));
        self.roots.push(root);
        self.size += 1;
    }

    /// How many leaves it has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its root.
    pub fn root(&self) -> Hash {
        let mut roots = self.roots.iter().rev();
        match roots.next() {
            None => root(&[]),
            Some(&last) => roots.fold(last, |right, left| node_hash(left, &right)),
        }
    }
}

/// The hashes that lead from leaf `index` to the root of the tree over `leaves`: PATH.
///
/// # Errors
/// There is no such leaf.
pub fn inclusion_proof(leaves: &[Hash], index: usize) -> Result<Vec<Hash>, ProofError> {
    check_sizes(
        "leaf",
        index as u64,
        leaves.len() as u64,
        index < leaves.len(),
    )?;
    let mut proof = Vec::new();
    let (mut within, mut index) = (leaves, index);
    while within.len() > 1 {
        let (left, right) = within.split_at(split(within.len()));
        if index < left.len() {
            proof.push(root(right));
            within = left;
        } else {
            proof.push(root(left));
            index -= left.len();
            within = right;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// The hashes that show that the tree over `leaves` continues that over the first `older` of them:
/// PROOF. Empty when `older` is 0 or all: then there is nothing to show.
///
/// # Errors
/// The older tree is larger.
pub fn consistency_proof(leaves: &[Hash], older: usize) -> Result<Vec<Hash>, ProofError> {
    check_sizes(
        "size",
        older as u64,
        leaves.len() as u64,
        older <= leaves.len(),
    )?;
    let mut proof = Vec::new();
    let (mut within, mut older) = (leaves, older);
    if older == 0 {
        return Ok(proof);
    }
    // SUBPROOF: whoever has the older root needs no hash for a subtree that is all of it.
    let mut is_older_root = true;
    while older < within.len() {
        let (left, right) = within.split_at(split(within.len()));
        if older <= left.len() {
            proof.push(root(right));
            within = left;
        } else {
            proof.push(root(left));
            older -= left.len();
            within = right;
            is_older_root = false;
        }
    }
    if !is_older_root {
        proof.push(root(within));
    }
    proof.reverse();
    Ok(proof)
}

/// Checks that `leaf` is leaf `index` of the tree of `size` leaves with `root` (RFC 9162, 2.1.3.2,
/// which spells RFC 6962's PATH out).
///
/// # Errors
/// It is not shown.
pub fn verify_inclusion(
    leaf: &Hash,
    index: u64,
    size: u64,
    proof: &[Hash],
    root: &Hash,
) -> Result<(), ProofError> {
    check_sizes("leaf", index, size, index < size)?;
    let mut sides = Vec::with_capacity(PROOF_HASHES_MAX);
    let (mut at, mut last) = (index, size - 1);
    // From the leaf up: on which side the other hash stands; where a subtree stands alone at the
    // right edge, none.
    while last > 0 {
        if at & 1 == 1 {
            sides.push(Side::Left);
        } else if at < last {
            sides.push(Side::Right);
        }
        at >>= 1;
        last >>= 1;
    }
    check_length(proof, sides.len())?;
    let reached = sides
        .iter()
        .zip(proof)
        .fold(*leaf, |hash, (side, other)| match side {
            Side::Left => node_hash(other, &hash),
            Side::Right => node_hash(&hash, other),
        });
    check_root(&reached, root, "newer")
}

/// Checks that the tree of `size` leaves with `root` continues that of `older` leaves with
/// `older_root` (RFC 9162, 2.1.4.2).
///
/// # Errors
/// It is not shown.
pub fn verify_consistency(
    older: u64,
    older_root: &Hash,
    size: u64,
    root: &Hash,
    proof: &[Hash],
) -> Result<(), ProofError> {
    check_sizes("size", older, size, older <= size)?;
    if older == 0 {
        check_length(proof, 0)?;
        return check_root(older_root, &self::root(&[]), "older");
    }
    if older == size {
        check_length(proof, 0)?;
        return check_root(older_root, root, "newer");
    }
    // Up from the older tree's last full subtree, whose hash comes first unless it is that tree.
    let full = older.trailing_zeros();
    let (mut at, mut last) = ((older - 1) >> full, (size - 1) >> full);
    let given = if older.is_power_of_two() { 0 } else { 1 };
    let mut sides = Vec::with_capacity(PROOF_HASHES_MAX);
    while last > 0 {
        if at & 1 == 1 {
            sides.push(Side::Left);
        } else if at < last {
            sides.push(Side::Right);
        }
        at >>= 1;
        last >>= 1;
    }
    check_length(proof, given + sides.len())?;
    let (start, path) = match (given, proof) {
        (1, [start, path @ ..]) => (start, path),
        _ => (older_root, proof),
    };
    // What stands left belongs to both trees, what stands right to the newer only.
    let (older_reached, reached) =
        sides
            .iter()
            .zip(path)
            .fold((*start, *start), |(old, new), (side, other)| match side {
                Side::Left => (node_hash(other, &old), node_hash(other, &new)),
                Side::Right => (old, node_hash(&new, other)),
            });
    check_root(&older_reached, older_root, "older")?;
    check_root(&reached, root, "newer")
}

/// A record as a leaf of a seal: `u32 big-endian key length || key || u32 value length || value`;
/// a null has the length `FFFFFFFF` and no bytes.
///
/// # Panics
/// When a key or value has 4 GiB or more: no log holds such.
pub fn frame(key: Option<&[u8]>, value: Option<&[u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    for part in [key, value] {
        let length = part.map_or(u32::MAX, |part| {
            let length = u32::try_from(part.len()).ok().filter(|n| *n < u32::MAX);
            length.expect("records are smaller than 4 GiB")
        });
        out.extend(length.to_be_bytes());
        out.extend(part.unwrap_or_default());
    }
    out
}

/// Where the other hash stands.
enum Side {
    Left,
    Right,
}

/// The largest power of two below `size`, which is at least 2.
fn split(size: usize) -> usize {
    1 << (size - 1).ilog2()
}

fn check_sizes(
    what: &'static str,
    first: u64,
    size: u64,
    in_order: bool,
) -> Result<(), ProofError> {
    if in_order && size < 1 << 63 {
        Ok(())
    } else {
        Err(ProofError::Sizes { what, first, size })
    }
}

fn check_length(proof: &[Hash], expected: usize) -> Result<(), ProofError> {
    if proof.len() == expected {
        Ok(())
    } else {
        Err(ProofError::Length {
            got: proof.len(),
            expected,
        })
    }
}

fn check_root(reached: &Hash, root: &Hash, which: &'static str) -> Result<(), ProofError> {
    if reached == root {
        Ok(())
    } else {
        Err(ProofError::Root { which })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(hash: &Hash) -> String {
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn leaves_a() -> Vec<Hash> {
        let leaves: [&[u8]; 8] = [
            &[],
            &[0x00],
            &[0x10],
            &[0x20, 0x21],
            &[0x30, 0x31],
            &[0x40, 0x41, 0x42, 0x43],
            &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
            b"`abcdefghijklmno",
        ];
        leaves.map(leaf_hash).into()
    }

    fn numbered(n: usize) -> Vec<Hash> {
        (0..n)
            .map(|i| leaf_hash(format!("leaf {i}").as_bytes()))
            .collect()
    }

    #[test]
    fn vector_1_roots() {
        for (size, expected) in [
            (
                0,
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ),
            (
                3,
                "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            ),
            (
                8,
                "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
            ),
        ] {
            assert_eq!(hex(&root(&leaves_a()[..size])), expected);
        }
    }

    #[test]
    fn vector_2_a_consistency_proof() {
        let proof = consistency_proof(&leaves_a()[..7], 3).unwrap();
        assert_eq!(
            proof.iter().map(hex).collect::<Vec<_>>(),
            [
                "0298d122906dcfc10892cb53a73992fc5b9f493ea4c9badb27b791b4127a7fe7",
                "07506a85fd9dd2f120eb694f86011e5bb4662e5c415a62917033d4a9624487e7",
                "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
                "837dbb152e9b079010717e84e865da4ebc0fa198a806d59d31bf15accef22d0e",
            ]
        );
    }

    /// 56/ILTiUT8eTBUUygJHUWCMojB9zTL2sBjlnE+vUtdU= in base64.
    #[test]
    fn vector_4_root_of_three_hundred_leaves() {
        assert_eq!(
            hex(&root(&numbered(300))),
            "e7afc82d38944fc7930545328091d45823288c1f734cbdac06396713ebd4b5d5"
        );
    }

    #[test]
    fn vector_7_root_of_seal_frames() {
        let mut seal = Frontier::default();
        seal.push(&frame(Some(b"n1"), Some(b"a")));
        seal.push(&frame(None, Some(b"bc")));
        seal.push(&frame(Some(b"n1"), None));
        assert_eq!(
            hex(&seal.root()),
            "082700d9a78f1b5e37decf33c9c72c0109342379131836a215c768c214f683b3"
        );
    }

    #[test]
    fn a_frontier_has_the_root_of_its_leaves_at_every_size() {
        let leaves = numbered(130);
        let mut frontier = Frontier::default();
        for size in 0..=leaves.len() {
            assert_eq!(frontier.size(), size as u64);
            assert_eq!(frontier.root(), root(&leaves[..size]), "{size}");
            if let Some(&leaf) = leaves.get(size) {
                frontier.push_hash(leaf);
            }
        }
    }

    #[test]
    fn every_leaf_of_every_tree_is_proved_and_nothing_else() {
        let leaves = numbered(40);
        for size in 1..=leaves.len() {
            let tree = root(&leaves[..size]);
            for index in 0..size {
                let proof = inclusion_proof(&leaves[..size], index).unwrap();
                let verify = |leaf: usize, index: usize, size: usize, proof: &[Hash]| {
                    verify_inclusion(&leaves[leaf], index as u64, size as u64, proof, &tree)
                };
                assert_eq!(verify(index, index, size, &proof), Ok(()));
                assert!(verify((index + 1) % 40, index, size, &proof).is_err());
                assert!(verify(index, index + 1, size, &proof).is_err());
                assert!(verify(index, size, size, &proof).is_err());
                spoilt(&proof, |proof| verify(index, index, size, proof));
            }
            assert!(inclusion_proof(&leaves[..size], size).is_err());
        }
    }

    #[test]
    fn every_tree_continues_every_smaller_one_and_no_other() {
        let leaves = numbered(40);
        let roots: Vec<_> = (0..=40).map(|size| root(&leaves[..size])).collect();
        for size in 0..=leaves.len() {
            for older in 0..=size {
                let proof = consistency_proof(&leaves[..size], older).unwrap();
                let verify = |older: usize, size: usize, from: usize, to: usize, proof: &[Hash]| {
                    let (from, to) = (&roots[from], &roots[to]);
                    verify_consistency(older as u64, from, size as u64, to, proof)
                };
                assert_eq!(
                    verify(older, size, older, size, &proof),
                    Ok(()),
                    "{older} {size}"
                );
                let other = (older + 1) % 41;
                assert!(
                    verify(older, size, other, size, &proof).is_err(),
                    "{older} {size}"
                );
                if older > 0 {
                    let other = (size + 1) % 41;
                    assert!(
                        verify(older, size, older, other, &proof).is_err(),
                        "{older} {size}"
                    );
                }
                spoilt(&proof, |proof| verify(older, size, older, size, proof));
            }
            assert!(consistency_proof(&leaves[..size], size + 1).is_err());
        }
    }

    /// No change of a proof proves: a hash more, a hash less, a bit flipped, two exchanged.
    fn spoilt(proof: &[Hash], verify: impl Fn(&[Hash]) -> Result<(), ProofError>) {
        let got = proof.len();
        let longer = [proof, &[[0; 32]]].concat();
        let length = |got, expected| Err(ProofError::Length { got, expected });
        assert_eq!(verify(&longer), length(got + 1, got));
        if let Some(less) = got.checked_sub(1) {
            assert_eq!(verify(&proof[..less]), length(less, got));
        }
        for i in 0..got {
            let mut other = proof.to_vec();
            other[i][31] ^= 1;
            assert!(matches!(verify(&other), Err(ProofError::Root { .. })));
        }
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        let hash = [0; 32];
        assert!(verify_inclusion(&hash, 0, 0, &[], &hash).is_err());
        assert!(verify_inclusion(&hash, 1 << 63, u64::MAX, &[], &hash).is_err());
        assert!(verify_consistency(2, &hash, 1, &hash, &[]).is_err());
        assert!(verify_consistency(1, &hash, 1 << 63, &hash, &[]).is_err());
        let most = vec![hash; PROOF_HASHES_MAX];
        assert_eq!(
            verify_inclusion(&hash, 0, (1 << 63) - 1, &most, &hash),
            Err(ProofError::Root { which: "newer" })
        );
    }
}
