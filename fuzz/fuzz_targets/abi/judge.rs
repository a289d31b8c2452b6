//! A judge: packets, flows, and the frames that it answers with.

use std::ptr::{null, null_mut};

use portcullis_abi::judge::*;
use portcullis_abi::types::*;

use crate::Session;

impl Session<'_> {
    pub(crate) fn new_judge(&mut self) {
        if self.judges.full() {
            return;
        }
        let engine = self.engine();
        let mut judge = null_mut();
        // SAFETY: there is room for a handle.
        let status = unsafe { portcullis_judge_new(engine.0, &mut judge) };
        if self.engines.check(engine, status) == 0 {
            self.judges.add(judge);
        }
    }

    pub(crate) fn packets(&mut self) {
        let judge = self.judges.pick(&mut self.input);
        let input = &mut self.input;
        let mut data = Vec::new();
        for _ in 0..input.byte() % 80 {
            let packet = match input.byte() {
                0..=100 => {
                    let mut frame = vec![0; 54];
                    frame[12] = 8;
                    frame[14..24].copy_from_slice(&[0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6]);
                    frame[20] = input.byte() & 0x20;
                    frame[21] = input.byte() & 0x03;
                    frame[26..34].copy_from_slice(&[
                        10,
                        0,
                        0,
                        input.byte(),
                        10,
                        0,
                        0,
                        input.byte(),
                    ]);
                    frame[36..38].copy_from_slice(&5432_u16.to_be_bytes());
                    frame[46..48].copy_from_slice(&[0x50, input.byte()]);
                    frame
                }
                _ => input.bytes(200).to_vec(),
            };
            data.push(packet.into_boxed_slice());
        }
        let packet = |data: &Box<[u8]>| portcullis_packet {
            data: data.as_ptr(),
            len: data.len(),
            wire_len: 0,
        };
        let mut packets: Vec<_> = data.iter().map(packet).collect();
        if let Some(first) = packets.first_mut() {
            first.wire_len = input.number() as usize;
            if input.byte() == 0 {
                first.data = null();
            }
        }
        let mut out =
            vec![portcullis_judgement { verdict: 77, ..Default::default() }; packets.len()];
        let now = input.number();
        // SAFETY: so many packets, each NULL or with its bytes; room for as many judgements.
        let status = unsafe {
            portcullis_judge_packets(
                judge.0,
                now,
                packets.as_ptr(),
                packets.len(),
                out.as_mut_ptr(),
            )
        };
        let judged = self.judges.check(judge, status) == 0;
        assert!(out.iter().all(|out| (out.verdict != 77) == judged), "written only on success");
    }

    pub(crate) fn flows(&mut self) {
        let judge = self.judges.pick(&mut self.input);
        let count = self.input.byte() % 80;
        let flows: Vec<_> = (0..count).map(|_| self.input.flow()).collect();
        let mut out = vec![portcullis_judgement { verdict: 77, ..Default::default() }; flows.len()];
        // SAFETY: so many flows, and room for as many judgements.
        let status = unsafe {
            portcullis_judge_flows(judge.0, flows.as_ptr(), flows.len(), out.as_mut_ptr())
        };
        let judged = self.judges.check(judge, status) == 0;
        assert!(out.iter().all(|out| (out.verdict != 77) == judged), "written only on success");
    }

    pub(crate) fn frames(&mut self) {
        let judge = self.judges.pick(&mut self.input);
        let size = self.input.size(size_of::<portcullis_frame>());
        let capacity = usize::from(self.input.byte() % 5);
        let mut frames = vec![0u64; (size.min(4096) * capacity).div_ceil(8)];
        let mut bytes = self.input.room();
        let (mut count, mut waiting) = (99, 0);
        // SAFETY: room for so many frames and bytes; a size beyond 4096 is refused.
        let status = unsafe {
            portcullis_judge_frames(
                judge.0,
                frames.as_mut_ptr().cast(),
                size,
                if size > 4096 { 1 } else { capacity },
                bytes.as_mut_ptr(),
                bytes.len(),
                &mut count,
                &mut waiting,
            )
        };
        if self.judges.check(judge, status) == 0 {
            assert!(count <= capacity);
        }
    }
}
