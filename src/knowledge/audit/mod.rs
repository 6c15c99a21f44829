//! The verifiable log, as far as it is pure: the Merkle tree over a mesh's events
//! (`audit-format.md` 2).

mod merkle;

pub use merkle::{
    Frontier, Hash, PROOF_HASHES_MAX, ProofError, consistency_proof, frame, inclusion_proof,
    leaf_hash, node_hash, root, verify_consistency, verify_inclusion,
};
