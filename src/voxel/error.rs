//! Why there is no grid, or not with these tiles.

/// Each variant names what to change.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GridError {
    /// A length that cannot be.
    #[error("`{what}` is {value} mm: lengths have to be positive numbers of at least a picometre")]
    NotPositive {
        /// The setting.
        what: &'static str,
        /// As configured.
        value: f64,
    },
    /// Coordinates beyond which picometres are not exact.
    #[error("`{what}` is {value} mm: coordinates reach to 1 km")]
    OutOfReach {
        /// The setting.
        what: &'static str,
        /// As configured.
        value: f64,
    },
    /// A transform that has no inverse.
    #[error(
        "the transform's `{what}` is {value}: it has to be finite, the scale positive and the axis of some length, so that there is a way back"
    )]
    Degenerate {
        /// The setting.
        what: &'static str,
        /// As configured.
        value: f64,
    },
    /// More voxels along an axis than can be numbered.
    #[error(
        "an axis would have {voxels} voxels, more than the {voxels_max} that can be numbered: choose a larger `voxel` or a smaller `size`"
    )]
    TooManyVoxels {
        /// Along the axis.
        voxels: u128,
        /// As many as there can be.
        voxels_max: u64,
    },
    /// One layer does not fit memory.
    #[error(
        "the grid has {voxels} voxels; one full layer of it takes {layer_bytes} bytes, more than the {bytes_max} allowed: choose a larger `voxel`, a smaller `size`, fewer signals or more memory"
    )]
    TooLarge {
        /// In the whole box.
        voxels: u128,
        /// Of one full layer, all signals.
        layer_bytes: u128,
        /// As configured.
        bytes_max: u64,
    },
    /// Nothing to accumulate.
    #[error("the grid has no signals: name at least one of the stream's")]
    NoSignal,
    /// A signal the stream does not have.
    #[error("the stream `{stream}` has no signal `{signal}`")]
    UnknownSignal {
        /// The stream.
        stream: String,
        /// The name in the grid's settings.
        signal: String,
    },
    /// Stored bytes that are no tile of this grid.
    #[error("the stored tile {key} is unusable ({why}): leave it out and replay the rows from the inbox")]
    Tile {
        /// Which one.
        key: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Two grids of different voxels, signals or lanes.
    #[error("the grids differ in {what}: only grids with the same voxels, signals and statistics go together")]
    Mismatch {
        /// In what.
        what: &'static str,
    },
    /// More than memory allows at once.
    #[error("{what} would take {bytes} bytes, more than the {bytes_max} allowed: ask for a layer or a region")]
    ResultTooLarge {
        /// The result.
        what: &'static str,
        /// It would take.
        bytes: u128,
        /// It may take.
        bytes_max: u128,
    },
    /// A state of a grid that was configured otherwise.
    #[error("the grid `{grid}` had other voxels, signals or statistics when its state was kept: it starts empty")]
    Reshaped {
        /// Its name.
        grid: String,
    },
    /// Nothing has been added yet.
    #[error("the grid has no voxel yet")]
    Empty,
    /// A coordinate system that is not where it should be.
    #[error("the frame `{frame}` {why}")]
    Frame {
        /// Which one.
        frame: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A layer without a voxel.
    #[error("layer {layer} has no value of `{signal}`")]
    EmptyLayer {
        /// Which one.
        layer: i32,
        /// Which signal.
        signal: String,
    },
}
