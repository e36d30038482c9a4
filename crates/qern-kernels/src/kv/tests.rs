//! What is stored, read back element by element.

use super::*;
use crate::test_values::uniform;
use half::f16;

fn geometry(format: KvFormat, head_dim: usize) -> KvGeometry {
    KvGeometry { num_layers: 2, num_kv_heads: 3, head_dim, format }
}

/// Key and value of a position as stored.
fn stored(pages: &KvPages, layer: usize, kv_head: usize, slot: KvSlot) -> [Vec<f32>; 2] {
    let Block { keys, values, key_scales, value_scales } = pages.block(slot.page, layer, kv_head);
    let (dim, offset) = (pages.geometry.head_dim, slot.offset as usize);
    let element = |p: *const u8, scales: *const f32, i: usize| {
        // SAFETY: element `i` is within the half block, and `offset` within the scales where there are any.
        unsafe {
            match pages.geometry.format {
                KvFormat::F32 => *p.cast::<f32>().add(i),
                KvFormat::F16 => f16::from_bits(*p.cast::<u16>().add(i)).to_f32(),
                KvFormat::Q8 => f32::from(*p.cast::<i8>().add(i)) * *scales.add(offset),
            }
        }
    };
    let key = (0..dim).map(|d| element(keys, key_scales, d * PAGE_LEN + offset)).collect();
    let value = (0..dim).map(|d| element(values, value_scales, offset * dim + d)).collect();
    [key, value]
}

const FORMATS: [KvFormat; 3] = [KvFormat::F32, KvFormat::F16, KvFormat::Q8];

#[test]
fn rows_come_back_rounded_once_on_every_isa() {
    for format in FORMATS {
        for dim in [16, 64, 80, 128] {
            // Enough tokens to be shared by threads.
            for num_tokens in [1, 5, 200] {
                let slots: Vec<KvSlot> =
                    (0..num_tokens).map(|i| KvSlot { page: 5 - (i / 64) as u32, offset: (i % 64) as u32 }).collect();
                let (k, v) = (uniform(1, num_tokens * 3 * dim, 9.0), uniform(2, num_tokens * 3 * dim, 0.1));
                let mut bytes: Option<Vec<u8>> = None;
                for isa in Isa::available() {
                    let mut pages = KvPages::new(geometry(format, dim), 6).unwrap();
                    pages.append_on(isa, &Pool::new(3), 1, &KvRows { slots: &slots, k: &k, v: &v });
                    for (i, &slot) in slots.iter().enumerate() {
                        for head in 0..3 {
                            let given = [&k, &v].map(|x| &x[(i * 3 + head) * dim..][..dim]);
                            for (given, stored) in given.into_iter().zip(stored(&pages, 1, head, slot)) {
                                let largest = given.iter().fold(0f32, |m, x| m.max(x.abs()));
                                for (&x, y) in given.iter().zip(stored) {
                                    match format {
                                        KvFormat::F32 => assert_eq!(x, y),
                                        KvFormat::F16 => assert_eq!(f16::from_f32(x).to_f32(), y),
                                        // Half a step, and the rounding of the scale.
                                        KvFormat::Q8 => assert!((x - y).abs() <= largest * (0.5 / 127.0 + 1e-6)),
                                    }
                                }
                            }
                        }
                    }
                    assert!(stored(&pages, 0, 0, slots[0])[0].iter().all(|&x| x == 0.0));
                    assert_eq!(bytes.get_or_insert_with(|| pages.bytes.to_vec())[..], pages.bytes[..], "{isa}");
                }
            }
        }
    }
}

#[test]
fn extremes_are_stored_finite() {
    let slot = KvSlot { page: 0, offset: 63 };
    let row: Vec<f32> = (0..48).map(|i| [0.0, 1e30, -1e30, 65519.0][i % 4]).collect();
    let mut pages = KvPages::new(geometry(KvFormat::F16, 16), 1).unwrap();
    pages.append(&Pool::new(1), 0, &KvRows { slots: &[slot], k: &row, v: &row });
    for row in stored(&pages, 0, 0, slot) {
        assert_eq!(row[..4], [0.0, 65504.0, -65504.0, 65504.0]);
    }
    let mut pages = KvPages::new(geometry(KvFormat::Q8, 16), 1).unwrap();
    let zeros = [0.0; 48];
    pages.append(&Pool::new(1), 0, &KvRows { slots: &[slot], k: &row, v: &zeros });
    let [k, v] = stored(&pages, 0, 0, slot);
    assert!((k[1] / 1e30 - 1.0).abs() < 1e-6 && k[0] == 0.0 && v.iter().all(|&v| v == 0.0));
}

#[test]
fn a_copied_page_holds_every_layer() {
    for format in FORMATS {
        let mut pages = KvPages::new(geometry(format, 32), 3).unwrap();
        let slots: Vec<KvSlot> = (0..64).map(|offset| KvSlot { page: 0, offset }).collect();
        for layer in 0..2 {
            let (k, v) = (uniform(layer, 64 * 96, 1.0), uniform(layer + 9, 64 * 96, 1.0));
            pages.append(&Pool::new(1), layer as usize, &KvRows { slots: &slots, k: &k, v: &v });
        }
        pages.copy_page(0, 2);
        let n = pages.page_bytes();
        assert_eq!(pages.bytes[..n], pages.bytes[2 * n..]);
        assert!(pages.bytes[n..2 * n].iter().all(|&b| b == 0));
    }
}

#[test]
fn impossible_geometries_are_errors() {
    let check = |geometry, num_pages, text: &str| {
        let error = KvPages::new(geometry, num_pages).unwrap_err().to_string();
        assert!(error.starts_with(text), "{error}");
    };
    check(geometry(KvFormat::F16, 24), 1, "`head_dim` must be a multiple of 16, at least 16; given 24");
    check(geometry(KvFormat::F16, 0), 1, "`head_dim` must be");
    check(KvGeometry { num_layers: 0, ..geometry(KvFormat::F16, 16) }, 1, "a model must have layers");
    check(geometry(KvFormat::F16, 1 << 40), 1 << 40, "out of memory");
    check(geometry(KvFormat::Q8, usize::MAX - 15), 2, "out of memory");
}

#[test]
#[should_panic(expected = "page 3 of 3")]
fn a_page_that_does_not_exist_is_refused() {
    let mut pages = KvPages::new(geometry(KvFormat::F16, 16), 3).unwrap();
    let row = [0.0; 48];
    pages.append(&Pool::new(1), 0, &KvRows { slots: &[KvSlot { page: 3, offset: 0 }], k: &row, v: &row });
}

#[test]
fn what_is_not_finite_is_not_stored_as_a_number() {
    for format in [KvFormat::F32, KvFormat::F16, KvFormat::Q8] {
        for isa in Isa::available() {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let geometry = geometry(format, 16);
                let len = geometry.num_kv_heads * geometry.head_dim;
                let mut pages = KvPages::new(geometry, 1).unwrap();
                let mut rows = vec![1.0; len];
                rows[2] = bad;
                let slot = KvSlot { page: 0, offset: 5 };
                pages.append_on(isa, &Pool::new(1), 0, &KvRows { slots: &[slot], k: &rows, v: &rows });
                let [key, value] = stored(&pages, 0, 0, slot);
                assert!(!key[2].is_finite() && !value[2].is_finite(), "{format:?} on {isa}: {bad} became a number");
            }
        }
    }
}
