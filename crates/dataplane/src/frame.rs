//! UMEM and frames: who may touch which piece of packet memory, as types.
//!
//! A [`Umem`] is one region of memory cut into chunks of equal size. A [`Frame`] is the right to
//! read and write one chunk: it can be moved, not copied, so a chunk is in exactly one place — with
//! the user, in a pool, or (through a port) in one of the kernel's rings. A [`FramePool`] holds the
//! frames that nobody uses; each worker owns one.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::prefetch::prefetch;

/// Bytes kept free before a received packet, for headers that an action may put in front.
pub const HEADROOM: u32 = 256;

/// One region of packet memory, cut into chunks; shared by all ports of a firewall.
#[derive(Debug)]
pub struct Umem {
    base: NonNull<u8>,
    chunk_size: u32,
    chunks: u32,
    /// Tells the frames of one UMEM from those of another.
    id: u32,
    /// Whatever keeps the memory mapped.
    _owner: Box<dyn Any + Send + Sync>,
}

// SAFETY: the memory is only reached through frames, and a frame is owned by one thread at a time.
unsafe impl Send for Umem {}
// SAFETY: as above; `&Umem` alone gives no access to any chunk.
unsafe impl Sync for Umem {}

/// Memory of [`Umem::heap`]: held as a raw pointer, not as a box, because moving a box asserts that
/// nobody else points into it.
struct Heap(NonNull<[u64]>);

// SAFETY: plain memory without an owner thread.
unsafe impl Send for Heap {}
// SAFETY: `&Heap` gives no access to the memory.
unsafe impl Sync for Heap {}

impl Drop for Heap {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `Box::leak` and is given back once, here.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// The right to use one chunk of a [`Umem`], and where in it the packet lies. 20 bytes, move-only.
#[derive(Debug)]
pub struct Frame {
    umem: u32,
    chunk: u32,
    offset: u32,
    len: u32,
    /// The packet goes on in the next frame of the batch (multi-buffer).
    pub more: bool,
}

impl Umem {
    /// Allocates a UMEM of ordinary memory: for memory ports, pcap ports and tests.
    ///
    /// `chunk_size` in bytes must exceed [`HEADROOM`]; anything smaller is raised to hold one
    /// minimal Ethernet frame.
    pub fn heap(chunks: u32, chunk_size: u32) -> FramePool {
        let chunk_size = chunk_size.max(HEADROOM + 64);
        let words = (chunks as usize * chunk_size as usize).div_ceil(8);
        let memory = Box::leak(vec![0u64; words.max(1)].into_boxed_slice());
        let owner = Heap(NonNull::from(memory));
        // SAFETY: the leaked slice is at least chunks × chunk_size bytes, lives until `owner` is
        // dropped, and its only other handle is the raw pointer in `owner`.
        unsafe { Self::from_raw(owner.0.cast(), chunks, chunk_size, Box::new(owner)) }
    }

    /// Wraps memory that somebody else mapped, such as the region registered with an AF_XDP socket.
    ///
    /// # Safety
    /// `base` must be valid for reads and writes of `chunks × chunk_size` bytes as long as `owner`
    /// lives, and nothing else may reach that memory except through the frames of the returned pool
    /// (the kernel included: it may hold only chunks whose frames were given up to it).
    pub unsafe fn from_raw(
        base: NonNull<u8>,
        chunks: u32,
        chunk_size: u32,
        owner: Box<dyn Any + Send + Sync>,
    ) -> FramePool {
        static NEXT_ID: AtomicU32 = AtomicU32::new(0);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let umem = Arc::new(Self { base, chunk_size, chunks, id, _owner: owner });
        FramePool { umem, free: (0..chunks).rev().collect() }
    }

    /// Size of a chunk in bytes.
    pub fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    /// Number of chunks.
    pub fn chunks(&self) -> u32 {
        self.chunks
    }

    /// The packet in `frame`; empty if the frame belongs to another UMEM.
    #[inline]
    pub fn data<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        let Some(start) = self.start(frame) else { return &[] };
        // SAFETY: `start` lies in a chunk that `frame` owns and `len` stays within that chunk
        // (checked whenever offset or length are set); the borrow of `frame` excludes writers.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), frame.len as usize) }
    }

    /// Asks the memory for the beginning of the packet in `frame`, which another CPU has just written:
    /// for a whole batch before the first of it is read, the waits overlap.
    #[inline]
    pub fn prefetch(&self, frame: &Frame) {
        if let Some(first) = self.data(frame).first() {
            prefetch(first);
        }
    }

    /// The packet in `frame`, for changing; empty if the frame belongs to another UMEM.
    #[inline]
    pub fn data_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] {
        let Some(start) = self.start(frame) else { return &mut [] };
        // SAFETY: as in `data`; the exclusive borrow of `frame` makes this the only access.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), frame.len as usize) }
    }

    /// Moves the packet's bounds within its chunk: `offset` from the chunk's start and `len`, both
    /// in bytes. `false`, and nothing changed, if that would leave the chunk or the frame is of
    /// another UMEM.
    #[inline]
    pub fn set_bounds(&self, frame: &mut Frame, offset: u32, len: u32) -> bool {
        let fits = offset.checked_add(len).is_some_and(|end| end <= self.chunk_size);
        if !fits || frame.umem != self.id {
            return false;
        }
        frame.offset = offset;
        frame.len = len;
        true
    }

    /// Whether `frame` is a frame of this UMEM.
    #[inline]
    pub fn owns(&self, frame: &Frame) -> bool {
        frame.umem == self.id
    }

    /// Moves the packet itself, so that it starts `offset` bytes from the chunk's start; copies its
    /// bytes unless it is there already. `false`, and nothing changed, if it would leave the chunk or
    /// the frame is of another UMEM.
    #[inline]
    pub fn move_to(&self, frame: &mut Frame, offset: u32) -> bool {
        let (from, len) = (self.start(frame), frame.len);
        if !self.set_bounds(frame, offset, len) {
            return false;
        }
        if let (Some(from), Some(to)) = (from, self.start(frame))
            && from != to
        {
            // SAFETY: the old and the new bounds both lie in the chunk that `frame` owns, and it is
            // borrowed exclusively; `copy_from` allows them to overlap.
            unsafe { to.copy_from(from, len as usize) };
        }
        true
    }

    /// Gives up a frame to whoever speaks in addresses (the kernel): the byte offset of the packet
    /// from the start of the UMEM. Bring it back with [`Umem::adopt`].
    #[inline]
    pub fn release(&self, frame: Frame) -> (u64, u32) {
        debug_assert_eq!(frame.umem, self.id);
        (u64::from(frame.chunk) * u64::from(self.chunk_size) + u64::from(frame.offset), frame.len)
    }

    /// Takes back a chunk: `addr` is a byte offset from the start of the UMEM, as the kernel hands
    /// it out. `None` if the packet would not lie within one chunk of this UMEM.
    ///
    /// # Safety
    /// The chunk must have been given up by [`Umem::release`] and not adopted since.
    #[inline]
    pub unsafe fn adopt(&self, addr: u64, len: u32) -> Option<Frame> {
        let size = u64::from(self.chunk_size);
        let chunk = u32::try_from(addr / size).ok().filter(|c| *c < self.chunks)?;
        let mut frame = Frame { umem: self.id, chunk, offset: 0, len: 0, more: false };
        self.set_bounds(&mut frame, (addr % size) as u32, len).then_some(frame)
    }

    #[inline]
    fn start(&self, frame: &Frame) -> Option<NonNull<u8>> {
        if frame.umem != self.id {
            return None;
        }
        let at = frame.chunk as usize * self.chunk_size as usize + frame.offset as usize;
        // SAFETY: frames are made with a chunk below `chunks` and bounds within the chunk.
        Some(unsafe { self.base.add(at) })
    }
}

impl Frame {
    /// Length of the packet in bytes.
    #[allow(clippy::len_without_is_empty)] // a frame is a place, not a collection
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Bytes between the start of the chunk and the packet.
    #[inline]
    pub fn offset(&self) -> u32 {
        self.offset
    }

    /// The chunk's number.
    #[inline]
    pub fn chunk(&self) -> u32 {
        self.chunk
    }
}

/// The free frames of one worker. Nothing here allocates after construction as long as frames go
/// back to pools of the same UMEM.
#[derive(Debug)]
pub struct FramePool {
    umem: Arc<Umem>,
    free: Vec<u32>,
}

impl FramePool {
    /// The memory that the frames belong to.
    pub fn umem(&self) -> &Arc<Umem> {
        &self.umem
    }

    /// Number of free frames.
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// Takes an empty frame with [`HEADROOM`] before it. O(1).
    #[inline]
    pub fn take(&mut self) -> Option<Frame> {
        let chunk = self.free.pop()?;
        Some(Frame { umem: self.umem.id, chunk, offset: HEADROOM, len: 0, more: false })
    }

    /// Takes a frame and fills it with `packet`; `None` if there is no frame or the packet is too
    /// long for one.
    pub fn take_with(&mut self, packet: &[u8]) -> Option<Frame> {
        let mut frame = self.take()?;
        let fits = u32::try_from(packet.len())
            .is_ok_and(|len| self.umem.set_bounds(&mut frame, HEADROOM, len));
        if !fits {
            self.put(frame);
            return None;
        }
        self.umem.data_mut(&mut frame).copy_from_slice(packet);
        Some(frame)
    }

    /// Gives a frame back. O(1). A frame of another UMEM is not accepted and is handed back.
    #[inline]
    pub fn put(&mut self, frame: Frame) -> Option<Frame> {
        if frame.umem != self.umem.id {
            return Some(frame);
        }
        self.free.push(frame.chunk);
        None
    }

    /// Splits off a pool with `count` of the free frames (fewer if there are fewer), for another
    /// worker.
    pub fn split(&mut self, count: usize) -> FramePool {
        let keep = self.free.len().saturating_sub(count);
        FramePool { umem: Arc::clone(&self.umem), free: self.free.split_off(keep) }
    }
}

/// Frames on their way together; holds at most the capacity it was made with, so that pushing never
/// allocates.
#[derive(Debug)]
pub struct Batch {
    frames: Vec<Frame>,
    capacity: usize,
}

impl Batch {
    /// An empty batch for `capacity` frames.
    pub fn new(capacity: usize) -> Self {
        Self { frames: Vec::with_capacity(capacity), capacity }
    }

    /// Appends a frame, or hands it back if the batch is full.
    #[inline]
    pub fn push(&mut self, frame: Frame) -> Option<Frame> {
        if self.frames.len() == self.capacity {
            return Some(frame);
        }
        self.frames.push(frame);
        None
    }

    /// How many more frames fit.
    #[inline]
    pub fn room(&self) -> usize {
        self.capacity - self.frames.len()
    }

    /// The frames in order.
    #[inline]
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// The frames in order, for changing.
    #[inline]
    pub fn frames_mut(&mut self) -> &mut [Frame] {
        &mut self.frames
    }

    /// Number of frames.
    #[inline]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there is no frame.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Takes out the first `count` frames (all, if there are fewer), in order.
    #[inline]
    pub fn drain_front(&mut self, count: usize) -> impl Iterator<Item = Frame> {
        let count = count.min(self.frames.len());
        self.frames.drain(..count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_one_chunk_and_comes_back() {
        let mut pool = Umem::heap(4, 2048);
        let umem = Arc::clone(pool.umem());
        let frames: Vec<_> = (0..4u8).filter_map(|n| pool.take_with(&[n; 60])).collect();
        assert_eq!((frames.len(), pool.available()), (4, 0));
        assert!(pool.take().is_none());
        for (n, frame) in frames.iter().enumerate() {
            assert_eq!(umem.data(frame), [n as u8; 60]);
        }
        for frame in frames {
            let (addr, len) = umem.release(frame);
            // SAFETY: released on the line above.
            let frame = unsafe { umem.adopt(addr, len) };
            assert!(pool.put(frame.unwrap()).is_none());
        }
        assert_eq!(pool.available(), 4);
    }

    #[test]
    fn bounds_stay_within_the_chunk_and_the_umem() {
        let mut pool = Umem::heap(2, 2048);
        let umem = Arc::clone(pool.umem());
        assert!(pool.take_with(&[0; 2048]).is_none());
        assert_eq!(pool.available(), 2);
        let mut frame = pool.take().unwrap();
        assert!(umem.set_bounds(&mut frame, 2000, 48));
        assert!(!umem.set_bounds(&mut frame, 2000, 49));
        assert!(!umem.set_bounds(&mut frame, u32::MAX, 2));
        // SAFETY: both are refused, so no second frame comes to be.
        assert!(unsafe { umem.adopt(4096, 1) }.is_none());
        // SAFETY: as above.
        assert!(unsafe { umem.adopt(2040, 64) }.is_none());
    }

    #[test]
    fn a_packet_moves_within_its_chunk() {
        let mut pool = Umem::heap(1, 2048);
        let umem = Arc::clone(pool.umem());
        let packet: Vec<u8> = (0..100).collect();
        let mut frame = pool.take_with(&packet).unwrap();
        for offset in [250, 300, 0, 1948] {
            assert!(umem.move_to(&mut frame, offset));
            assert_eq!((frame.offset(), umem.data(&frame)), (offset, &packet[..]));
        }
        assert!(!umem.move_to(&mut frame, 1949));
        assert_eq!((frame.offset(), umem.data(&frame)), (1948, &packet[..]));
    }

    #[test]
    fn a_frame_of_another_umem_opens_nothing() {
        let mut one = Umem::heap(1, 2048);
        let mut other = Umem::heap(1, 2048);
        let mut frame = one.take_with(&[1; 64]).unwrap();
        assert!(one.umem().owns(&frame) && !other.umem().owns(&frame));
        assert!(!other.umem().move_to(&mut frame, 0));
        assert!(other.umem().data(&frame).is_empty());
        assert!(other.umem().data_mut(&mut frame).is_empty());
        let frame = other.put(frame).expect("handed back");
        assert!(one.put(frame).is_none());
    }

    #[test]
    fn pools_split_without_losing_frames() {
        let mut pool = Umem::heap(10, 2048);
        let part = pool.split(4);
        assert_eq!((pool.available(), part.available()), (6, 4));
        assert_eq!(pool.split(100).available(), 6);
    }
}
