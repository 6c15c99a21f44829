//! How RocksDB is told to treat rows and memory, wherever rows lie: beside an embedded log or in
//! folders of their own.

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, Options};

use crate::model::Span;

/// Changes of a family that are kept in memory.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    /// How many bytes before they go to a file.
    pub bytes: usize,
    /// By how many bytes they grow: below what the C library gives back, so that it is used again.
    pub piece: usize,
}

/// How long closed panes are kept: an hour, and the minutes in which one may still come.
pub const PANES_KEPT: Span = Span::seconds(3600 + 300);

/// Rows found by key.
pub fn found_by_key(cache: &Cache, buffer: Buffer) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    // A read wants one row of about 1 KiB: what else is in its block is read for nothing.
    table.set_block_size(2 << 10);
    table.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_arena_block_size(buffer.piece);
    options.set_write_buffer_size(buffer.bytes);
    options.set_memtable_whole_key_filtering(true);
    options.set_memtable_prefix_bloom_ratio(0.02);
    options
}

/// Rows by time, which go by range.
pub fn gone_by_range(cache: &Cache, buffer: Buffer) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_block_size(16 << 10);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_arena_block_size(buffer.piece);
    options.set_write_buffer_size(buffer.bytes);
    options.set_max_bytes_for_level_base(4 << 30);
    options.set_level_compaction_dynamic_level_bytes(false);
    options
}

/// Keeps large pieces of memory out of the C library's heaps.
///
/// RocksDB takes and frees pieces of many MiB, on other threads than took them. glibc answers the
/// first such frees by serving all later pieces up to that size from its heaps, where small ones
/// lie between them that stay: a loop of 1,000,000 nodes grew to 3 GiB. A bound set by hand holds.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "glibc takes this by a call only")]
pub fn bound_heaps() {
    // SAFETY: it sets a number in the allocator, under the allocator's own lock.
    let set = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES) };
    debug_assert_eq!(set, 1, "glibc knows this bound");
}

/// Where there is no glibc there is nothing to bound.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn bound_heaps() {}

/// Pieces of memory that are given back when they are freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE_BYTES: i32 = 4 << 20;
