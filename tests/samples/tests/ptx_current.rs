//! The PTX committed beside the kernels is what their sources compile to.

use cuda_samples::ptx;

#[test]
fn the_committed_ptx_is_current() {
    let sources = ptx::sources().unwrap();
    assert!(!sources.is_empty(), "no kernels were found");
    for source in sources {
        let committed = source.with_extension("ptx");
        let text = std::fs::read_to_string(&committed)
            .unwrap_or_else(|error| panic!("{} cannot be read: {error}", committed.display()));
        let compiled = ptx::compile(&source).unwrap_or_else(|error| panic!("{error:#}"));
        assert!(
            ptx::same(&text, &compiled),
            "{} is not what {} compiles to: run cargo run -p cuda-samples --bin regenerate-ptx and commit the result",
            committed.display(),
            source.display()
        );
    }
}
