//! Names and hardware addresses that follow from a pod's name, so that a lab built twice looks the same.

/// The host end of a pod's veth as the VPC CNI names it: `eni` and eleven hexadecimal digits of SHA-1 over `NAMESPACE.NAME`.
#[must_use]
pub fn host_interface(namespace: &str, name: &str) -> String {
    let digest = sha1(format!("{namespace}.{name}").as_bytes());
    format!("eni{}", hexadecimal(&digest).get(..11).unwrap_or_default())
}

/// A locally administered hardware address for one end (`side`) of a pod's veth.
#[must_use]
pub fn hardware_address(namespace: &str, name: &str, side: u8) -> [u8; 6] {
    let digest = sha1(format!("{namespace}.{name}").as_bytes());
    [0x02, side, digest[0], digest[1], digest[2], digest[3]]
}

/// A container id that follows from a pod's uid: 64 hexadecimal digits.
#[must_use]
pub fn container_id(uid: &str) -> String {
    let first = sha1(uid.as_bytes());
    let mut id = hexadecimal(&first) + &hexadecimal(&sha1(&first));
    id.truncate(64);
    id
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 0xf])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

/// SHA-1 (FIPS 180-4). Only ever a name, never a proof.
fn sha1(input: &[u8]) -> [u8; 20] {
    let mut message = input.to_vec();
    message.push(0x80);
    while message.len() % 64 != 56 {
        message.push(0);
    }
    message.extend_from_slice(&(input.len() as u64 * 8).to_be_bytes());

    let mut state: [u32; 5] = [
        0x6745_2301,
        0xefcd_ab89,
        0x98ba_dcfe,
        0x1032_5476,
        0xc3d2_e1f0,
    ];
    for block in message.chunks_exact(64) {
        let mut words = [0u32; 80];
        for (word, bytes) in words.iter_mut().zip(block.chunks_exact(4)) {
            *word = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        for i in 16..80 {
            words[i] = (words[i - 3] ^ words[i - 8] ^ words[i - 14] ^ words[i - 16]).rotate_left(1);
        }
        let [mut va, mut vb, mut vc, mut vd, mut ve] = state;
        for (i, word) in words.iter().enumerate() {
            let (choice, constant) = match i {
                0..20 => ((vb & vc) | (!vb & vd), 0x5a82_7999),
                20..40 => (vb ^ vc ^ vd, 0x6ed9_eba1),
                40..60 => ((vb & vc) | (vb & vd) | (vc & vd), 0x8f1b_bcdc),
                _ => (vb ^ vc ^ vd, 0xca62_c1d6_u32),
            };
            let next = va
                .rotate_left(5)
                .wrapping_add(choice)
                .wrapping_add(ve)
                .wrapping_add(constant)
                .wrapping_add(*word);
            (va, vb, vc, vd, ve) = (next, va, vb.rotate_left(30), vc, vd);
        }
        for (sum, value) in state.iter_mut().zip([va, vb, vc, vd, ve]) {
            *sum = sum.wrapping_add(value);
        }
    }
    let mut digest = [0; 20];
    for (bytes, word) in digest.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha1_gives_the_published_digests() {
        assert_eq!(
            hexadecimal(&sha1(b"abc")),
            "a9993e364706816aba3e25717850c26c9cd0d89d"
        );
        assert_eq!(
            hexadecimal(&sha1(&[b'a'; 1000])),
            "291e9a6c66994949b57ba5e650361e98fc36b1ba"
        );
    }

    #[test]
    fn an_interface_name_fits_and_depends_on_namespace_and_name() {
        let name = host_interface("shop", "web");
        assert_eq!(name.len(), 14);
        assert!(name.starts_with("eni"));
        assert_ne!(name, host_interface("ops", "web"));
        assert_eq!(container_id("x").len(), 64);
    }
}
