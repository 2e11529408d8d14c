//! Coordinate systems: the build platform, a global one, components and sensors, and the way from any to any.
//!
//! Frames form a tree below the global one; each but that knows its parent and the [`Transform`] from itself to it, given by origin, rotation
//! (Euler angles or axis and angle) and scale. A frame's parent has to be there before it, so there are no cycles.

use std::{collections::BTreeMap, sync::Arc};

use super::{GridError, Transform};

/// A coordinate system.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Frame {
    /// The root.
    Global,
    /// The plate that the build stands on; a grid's own.
    BuildPlatform,
    /// A part, by name.
    Component(Arc<str>),
    /// A sensor, by name.
    Sensor(Arc<str>),
}

impl std::fmt::Display for Frame {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Global => out.write_str("global"),
            Self::BuildPlatform => out.write_str("build platform"),
            Self::Component(name) => write!(out, "component {name}"),
            Self::Sensor(name) => write!(out, "sensor {name}"),
        }
    }
}

/// How frames lie to each other.
#[derive(Debug, Clone, Default)]
pub struct Frames {
    /// Parent, and the transform to it.
    known: BTreeMap<Frame, (Frame, Transform)>,
}

impl Frames {
    /// Places `frame` in `parent`: `transform` takes a point of `frame` to one of `parent`.
    ///
    /// # Errors
    /// A frame that is already placed, the global one, or a parent that is not placed.
    pub fn place(&mut self, frame: Frame, parent: Frame, transform: Transform) -> Result<(), GridError> {
        if frame == Frame::Global || self.known.contains_key(&frame) {
            return Err(GridError::Frame { frame: frame.to_string(), why: "is already placed" });
        }
        if parent != Frame::Global && !self.known.contains_key(&parent) {
            return Err(GridError::Frame { frame: parent.to_string(), why: "is not placed: place it before what is in it" });
        }
        self.known.insert(frame, (parent, transform));
        Ok(())
    }

    /// The transform that takes a point of `from` to one of `to`.
    ///
    /// # Errors
    /// A frame that is not placed.
    pub fn between(&self, from: &Frame, to: &Frame) -> Result<Transform, GridError> {
        Ok(self.to_global(from)?.then(&self.to_global(to)?.inverse()))
    }

    fn to_global(&self, frame: &Frame) -> Result<Transform, GridError> {
        let (mut at, mut transform) = (frame, Transform::IDENTITY);
        while *at != Frame::Global {
            let missing = || GridError::Frame { frame: at.to_string(), why: "is not placed" };
            let (parent, step) = self.known.get(at).ok_or_else(missing)?;
            transform = transform.then(step);
            at = parent;
        }
        Ok(transform)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(left: [f64; 3], right: [f64; 3]) {
        assert!(left.iter().zip(right).all(|(left, right)| (left - right).abs() < 1e-9), "{left:?} {right:?}");
    }

    #[test]
    fn a_point_goes_from_any_frame_to_any() {
        let euler = |translate, rotate, scale| Transform::from_euler(translate, rotate, scale).unwrap();
        let (camera, part) = (Frame::Sensor("camera".into()), Frame::Component("A3".into()));
        let mut frames = Frames::default();
        frames.place(Frame::BuildPlatform, Frame::Global, euler([100.0, 0.0, 0.0], [0.0; 3], 1.0)).unwrap();
        frames.place(part.clone(), Frame::BuildPlatform, euler([10.0, 20.0, 0.0], [0.0, 0.0, 90.0], 1.0)).unwrap();
        // Half a millimetre a pixel, turned over.
        frames.place(camera.clone(), Frame::BuildPlatform, euler([0.0, 250.0, 0.0], [180.0, 0.0, 0.0], 0.5)).unwrap();
        close(frames.between(&camera, &Frame::BuildPlatform).unwrap().apply([20.0, 40.0, 0.0]), [10.0, 230.0, 0.0]);
        close(frames.between(&part, &Frame::Global).unwrap().apply([1.0, 0.0, 0.0]), [110.0, 21.0, 0.0]);
        close(frames.between(&camera, &part).unwrap().apply([20.0, 458.0, 0.0]), [1.0, 0.0, 0.0]);
        let (there, back) = (frames.between(&camera, &part).unwrap(), frames.between(&part, &camera).unwrap());
        close(back.apply(there.apply([3.0, 4.0, 5.0])), [3.0, 4.0, 5.0]);
    }

    #[test]
    fn frames_that_hang_in_the_air_are_refused() {
        let mut frames = Frames::default();
        let camera = Frame::Sensor("camera".into());
        assert!(frames.between(&camera, &Frame::Global).is_err());
        assert!(frames.place(camera.clone(), Frame::BuildPlatform, Transform::IDENTITY).is_err());
        frames.place(camera.clone(), Frame::Global, Transform::IDENTITY).unwrap();
        assert!(frames.place(camera, Frame::Global, Transform::IDENTITY).is_err());
        assert!(frames.place(Frame::Global, Frame::Global, Transform::IDENTITY).is_err());
    }
}
