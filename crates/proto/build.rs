//! Compiles the wire schema with a pure-Rust protoc, so that no compiler has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/breeze/v1/trust.proto",
        "proto/breeze/v1/wire.proto",
        "proto/breeze/v1/inventory.proto",
        "proto/breeze/v1/lane.proto",
        "proto/breeze/v1/control.proto",
        "proto/breeze/v1/state.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    prost_build::Config::new().bytes(["."]).enable_type_names().compile_fds(descriptors)?;
    Ok(())
}
