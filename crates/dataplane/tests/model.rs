//! The whole pipeline against its model. The fuzzer runs the same for longer:
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run pipeline`.

#[path = "common/model.rs"]
#[allow(unreachable_pub)] // the fuzz target calls it from outside
mod model;

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_pipeline_is_its_model(data in proptest::collection::vec(any::<u8>(), 0..4000)) {
        model::run(&data);
    }
}
