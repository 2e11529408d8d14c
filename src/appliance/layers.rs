//! Layers that left a grid's memory, back from the store into a grid for looking at.

use crate::{
    engine::{cold_layer, cold_tile},
    store::{Reader, StoreError},
    voxel::{Grid, GridError, TileKey},
};

/// Why a layer does not come back.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The store.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A tile that is none of the grid's, or too much to be looked at at once.
    #[error("{0}")]
    Grid(#[from] GridError),
    /// It is no longer kept.
    #[error("the voxels of layer {layer} are no longer kept, for lack of room (`disk` of the grid); its figures are")]
    Forgotten {
        /// Which one.
        layer: i32,
    },
}

/// Adds the stored tiles of `layer` for which `wanted` holds to `grid`, which knows how often the layer left memory: what left later is not
/// added, as whoever made `grid` has it in there.
///
/// # Errors
/// See [`LayerError`].
pub fn bring_back(reader: &Reader, grid: &mut Grid, layer: i32, wanted: impl Fn(TileKey) -> bool) -> Result<(), LayerError> {
    let Some(status) = grid.layer(layer).filter(|status| status.generations > 0) else { return Ok(()) };
    if status.is_forgotten {
        return Err(LayerError::Forgotten { layer });
    }
    let mut tiles: Vec<(u32, TileKey, Vec<u8>)> = Vec::new();
    reader.parts_under(&cold_layer(&grid.config().settings().id, layer), |name, bytes| {
        if let Some((generation, key)) = cold_tile(&name)
            && generation < status.generations
            && wanted(key)
        {
            tiles.push((generation, key, bytes.to_vec()));
        }
    })?;
    // The latest first: each goes before what is there already.
    tiles.sort_unstable_by_key(|(generation, key, _)| (std::cmp::Reverse(*generation), *key));
    for (_, key, bytes) in tiles {
        grid.restore_tile(key, &bytes)?;
    }
    grid.returned(layer);
    Ok(())
}
