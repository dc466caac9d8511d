"""Writes `ext_proc.binpb` from the messages in the PyPI package `xds-protos` (Apache-2.0).

pip install xds-protos && python write.py
"""

from pathlib import Path

from envoy.service.ext_proc.v3 import external_processor_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet


def closure(file: FileDescriptor, found: dict[str, FileDescriptorProto]) -> None:
    """The file after all that it imports."""
    if file.name in found:
        return
    for imported in file.dependencies:
        closure(imported, found)
    proto = FileDescriptorProto()
    file.CopyToProto(proto)
    found[file.name] = proto


if __name__ == "__main__":
    files: dict[str, FileDescriptorProto] = {}
    closure(external_processor_pb2.DESCRIPTOR, files)
    here = Path(__file__).with_name("ext_proc.binpb")
    here.write_bytes(FileDescriptorSet(file=files.values()).SerializeToString())
