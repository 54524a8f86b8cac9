//! The two questions we ask of a 64-bit little-endian ELF file: does it need a program interpreter
//! (then it is not static), and has it a section of this name (then the BPF object carries BTF).

use std::path::Path;

use anyhow::{Context, Result, ensure};

const PT_INTERP: u32 = 3;

pub(crate) struct Elf(Vec<u8>);

impl Elf {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(bytes).with_context(|| format!("cannot read {}", path.display()))
    }

    fn parse(bytes: Vec<u8>) -> Result<Self> {
        ensure!(
            bytes.len() >= 64 && bytes.starts_with(b"\x7fELF\x02\x01"),
            "it is not a 64-bit little-endian ELF file"
        );
        Ok(Self(bytes))
    }

    pub(crate) fn size(&self) -> usize {
        self.0.len()
    }

    /// A static file, position independent or not, has no `PT_INTERP`.
    pub(crate) fn is_static(&self) -> Result<bool> {
        let table = self.number::<8>(32)?;
        let entry = self.number::<2>(54)?;
        for index in 0..self.number::<2>(56)? {
            if self.number::<4>(table + index * entry)? == u64::from(PT_INTERP) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(crate) fn has_section(&self, name: &str) -> Result<bool> {
        let table = self.number::<8>(40)?;
        let entry = self.number::<2>(58)?;
        let header = |index: u64| table + index * entry;
        let names = self.number::<8>(header(self.number::<2>(62)?) + 24)?;
        for index in 0..self.number::<2>(60)? {
            let start = (names + self.number::<4>(header(index))?) as usize;
            let rest = self.0.get(start..).unwrap_or_default();
            if rest.split(|byte| *byte == 0).next() == Some(name.as_bytes()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn number<const WIDTH: usize>(&self, offset: u64) -> Result<u64> {
        let start = usize::try_from(offset).context("an offset is too large")?;
        let field = self
            .0
            .get(start..)
            .and_then(|rest| rest.get(..WIDTH))
            .context("the ELF file is cut short")?;
        let mut wide = [0; 8];
        wide[..WIDTH].copy_from_slice(field);
        Ok(u64::from_le_bytes(wide))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_binary_has_text_and_something_else_is_refused() {
        let myself = std::env::current_exe().expect("a test knows its file");
        let elf = Elf::read(&myself).expect("it is an ELF file");
        assert!(elf.has_section(".text").expect("sections can be read"));
        assert!(!elf.has_section(".tex").expect("sections can be read"));
        assert_eq!(
            elf.is_static().expect("program headers can be read"),
            cfg!(target_feature = "crt-static")
        );
        assert!(Elf::parse(b"#!/bin/sh".to_vec()).is_err());
    }
}
