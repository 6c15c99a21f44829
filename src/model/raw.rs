//! A sample as it was given, before it is trusted: what `wire` reads and `monitor` judges.

use std::borrow::Cow;

use super::Neighbour;

/// A field as it was given.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Given<T> {
    /// Not given, or null.
    #[default]
    Missing,
    /// Given as something else than the field's type.
    WrongType,
    /// Given.
    Value(T),
}

/// A sample as it was given. Nothing here has been checked but its types.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RawSample<'a> {
    /// `mesh_id`.
    pub mesh: Given<Cow<'a, str>>,
    /// `node_id`.
    pub node: Given<Cow<'a, str>>,
    /// `seq`; the inner `None` is an integer that no i64 holds.
    pub seq: Given<Option<i64>>,
    /// `boot`; as `seq`.
    pub boot: Given<Option<i64>>,
    /// `time`, ms since 1970; the inner `None` is another form, or no such date.
    pub time: Given<Option<i64>>,
    /// `received`; as `time`.
    pub received: Given<Option<i64>>,
    /// `interval_s`.
    pub interval_s: Given<f64>,
    /// The eight metrics, in the order of [`super::Metric::ALL`].
    pub metrics: [Given<f64>; 8],
    /// The links, already valid; a faulty one is left out.
    pub neighbours: Vec<Neighbour>,
}
