//! gRPC server reflection: what tools such as grpcurl ask to know the services and messages.

use tonic_reflection::server::{Builder, Error, v1, v1alpha};

/// Envoy's `external_processor.proto` and all that it imports, a serialised `FileDescriptorSet`;
/// `descriptors/write.py` wrote it.
pub const EXT_PROC_DESCRIPTORS: &[u8] = include_bytes!("../descriptors/ext_proc.binpb");

fn builder() -> Builder<'static> {
    Builder::configure()
        .register_encoded_file_descriptor_set(EXT_PROC_DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// The reflection service as it is today.
pub(crate) fn v1() -> Result<v1::ServerReflectionServer<impl v1::ServerReflection>, Error> {
    builder().build_v1()
}

/// Its predecessor, which older tools ask for.
pub(crate) fn v1alpha()
-> Result<v1alpha::ServerReflectionServer<impl v1alpha::ServerReflection>, Error> {
    builder().build_v1alpha()
}
