//! Just enough of an assembler for BPF: Linux Documentation/bpf/standardization/instruction-set.rst.

/// A register; R0 is the result of calls and of the program, R10 the frame pointer.
#[derive(Clone, Copy)]
pub(super) struct R(pub(super) u8);

/// Width of a memory access.
#[derive(Clone, Copy)]
pub(super) enum Width {
    B1 = 0x10,
    B2 = 0x08,
    B4 = 0x00,
    B8 = 0x18,
}

/// An operation of the arithmetic unit.
#[derive(Clone, Copy)]
pub(super) enum Op {
    Add = 0x00,
    Sub = 0x10,
    Divide = 0x30,
    And = 0x50,
    ShiftRight = 0x70,
    Remainder = 0x90,
    Xor = 0xa0,
    Move = 0xb0,
}

/// When to jump; comparisons are unsigned.
#[derive(Clone, Copy)]
pub(super) enum If {
    Equal = 0x10,
    Greater = 0x20,
    GreaterOrEqual = 0x30,
    NotEqual = 0x50,
}

/// `bpf_map_lookup_elem`, `bpf_ktime_get_ns` and `bpf_redirect` of linux/bpf.h.
pub(super) const LOOKUP: i32 = 1;
pub(super) const NOW: i32 = 5;
pub(super) const REDIRECT: i32 = 23;

/// A program in the making. Jumps lead to the one label, `out`, or over a body.
#[derive(Default)]
pub(super) struct Assembler {
    code: Vec<u64>,
    jumps: Vec<usize>,
}

impl Assembler {
    fn push(&mut self, code: u8, to: R, from: R, offset: i16, value: i32) -> &mut Self {
        let registers = u64::from(to.0) | u64::from(from.0) << 4;
        self.code.push(
            u64::from(code)
                | registers << 8
                | u64::from(offset as u16) << 16
                | u64::from(value as u32) << 32,
        );
        self
    }

    /// `to = to op value`
    pub(super) fn value(&mut self, op: Op, to: R, value: i32) -> &mut Self {
        self.push(0x07 | op as u8, to, R(0), 0, value)
    }

    /// `to = to op from`
    pub(super) fn register(&mut self, op: Op, to: R, from: R) -> &mut Self {
        self.push(0x0f | op as u8, to, from, 0, 0)
    }

    /// Host to network byte order of the low 16 bits, or back; clears the others.
    pub(super) fn network16(&mut self, to: R) -> &mut Self {
        self.push(0xdc, to, R(0), 0, 16)
    }

    /// `to = *(from + offset)`
    pub(super) fn load(&mut self, width: Width, to: R, from: R, offset: i16) -> &mut Self {
        self.push(0x61 | width as u8, to, from, offset, 0)
    }

    /// `*(to + offset) = from`
    pub(super) fn store(&mut self, width: Width, to: R, offset: i16, from: R) -> &mut Self {
        self.push(0x63 | width as u8, to, from, offset, 0)
    }

    /// `*(to + offset) = value`
    pub(super) fn store_value(
        &mut self,
        width: Width,
        to: R,
        offset: i16,
        value: i32,
    ) -> &mut Self {
        self.push(0x62 | width as u8, to, R(0), offset, value)
    }

    /// `*(to + offset) += from`, 8 bytes, atomically.
    pub(super) fn atomic_add(&mut self, to: R, offset: i16, from: R) -> &mut Self {
        self.push(0xdb, to, from, offset, 0)
    }

    /// `to =` the map behind a descriptor
    pub(super) fn map(&mut self, to: R, descriptor: i32) -> &mut Self {
        self.push(0x18, to, R(1), 0, descriptor).push(0, R(0), R(0), 0, 0)
    }

    /// Calls a helper with R1 to R5.
    pub(super) fn call(&mut self, helper: i32) -> &mut Self {
        self.push(0x85, R(0), R(0), 0, helper)
    }

    /// `if a is … value goto out`
    pub(super) fn out_if(&mut self, condition: If, a: R, value: i32) -> &mut Self {
        self.jumps.push(self.code.len());
        self.push(0x05 | condition as u8, a, R(0), 0, value)
    }

    /// `if a is … b goto out`
    pub(super) fn out_if_register(&mut self, condition: If, a: R, b: R) -> &mut Self {
        self.jumps.push(self.code.len());
        self.push(0x0d | condition as u8, a, b, 0, 0)
    }

    /// `if a is … value` leaves out what `body` adds.
    pub(super) fn skip_if(
        &mut self,
        condition: If,
        a: R,
        value: i32,
        body: impl FnOnce(&mut Self),
    ) -> &mut Self {
        self.push(0x05 | condition as u8, a, R(0), 0, value).over(body)
    }

    /// `if a is … b` leaves out what `body` adds.
    pub(super) fn skip_if_register(
        &mut self,
        condition: If,
        a: R,
        b: R,
        body: impl FnOnce(&mut Self),
    ) -> &mut Self {
        self.push(0x0d | condition as u8, a, b, 0, 0).over(body)
    }

    /// Makes the jump before lead behind what `body` adds.
    fn over(&mut self, body: impl FnOnce(&mut Self)) -> &mut Self {
        let begin = self.code.len();
        body(self);
        let distance = (self.code.len() - begin) as u16;
        self.code[begin - 1] |= u64::from(distance) << 16;
        self
    }

    /// Ends the program with R0 as its result.
    pub(super) fn exit(&mut self) -> &mut Self {
        self.push(0x95, R(0), R(0), 0, 0)
    }

    /// Puts the label `out` here and answers with `action` from there: the program is complete.
    pub(super) fn out(&mut self, action: i32) -> Vec<u64> {
        let here = self.code.len();
        for jump in self.jumps.drain(..) {
            let distance = (here - jump - 1) as u16;
            self.code[jump] |= u64::from(distance) << 16;
        }
        self.value(Op::Move, R(0), action).exit();
        std::mem::take(&mut self.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_encoded_as_the_standard_says() {
        let code = Assembler::default()
            .load(Width::B4, R(7), R(6), 4)
            .out_if_register(If::Greater, R(1), R(7))
            .store_value(Width::B2, R(10), -4, 7)
            .network16(R(3))
            .out(2);
        // Little-endian fields: code, registers, offset, value.
        let expected: [u64; 6] = [
            0x0000_0000_0004_6761,
            0x0000_0000_0002_712d,
            0x0000_0007_fffc_0a6a,
            0x0000_0010_0000_03dc,
            0x0000_0002_0000_00b7,
            0x0000_0000_0000_0095,
        ];
        assert_eq!(code, expected);
    }
}
