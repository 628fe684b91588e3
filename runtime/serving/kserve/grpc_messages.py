"""The messages of the KServe v2 protocol for gRPC, as classes of protobuf.

`SCHEMA` has the fields of the public protocol with their numbers. Messages lie in a descriptor pool of their own, so that a stock
client in the same process can register its own. A message on the wire has no names, so nested types stand at the top level here.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"

#: Fields by message: name, type and number. `*` marks a repeated field, and `map` one from text to `InferParameter`.
SCHEMA = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "live bool 1",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "ready bool 1",
    "ModelReadyRequest": "name string 1, version string 2",
    "ModelReadyResponse": "ready bool 1",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "name string 1, version string 2, extensions string* 3",
    "ModelMetadataRequest": "name string 1, version string 2",
    "TensorMetadata": "name string 1, datatype string 2, shape int64* 3",
    "ModelMetadataResponse": "name string 1, versions string* 2, platform string 3, inputs TensorMetadata* 4, outputs TensorMetadata* 5",
    "InferParameter": "bool_param bool 1, int64_param int64 2, string_param string 3, double_param double 4, uint64_param uint64 5",
    "InferTensorContents": "bool_contents bool* 1, int_contents int32* 2, int64_contents int64* 3, uint_contents uint32* 4, "
    "uint64_contents uint64* 5, fp32_contents float* 6, fp64_contents double* 7, bytes_contents bytes* 8",
    "InferInputTensor": "name string 1, datatype string 2, shape int64* 3, parameters map 4, contents InferTensorContents 5",
    "InferRequestedOutputTensor": "name string 1, parameters map 2",
    "ModelInferRequest": "model_name string 1, model_version string 2, id string 3, parameters map 4, inputs InferInputTensor* 5, "
    "outputs InferRequestedOutputTensor* 6, raw_input_contents bytes* 7",
    "InferOutputTensor": "name string 1, datatype string 2, shape int64* 3, parameters map 4, contents InferTensorContents 5",
    "ModelInferResponse": "model_name string 1, model_version string 2, id string 3, parameters map 4, outputs InferOutputTensor* 5, "
    "raw_output_contents bytes* 6",
    "RepositoryIndexRequest": "repository_name string 1, ready bool 2",
    "ModelIndex": "name string 1, version string 2, state string 3, reason string 4",
    "RepositoryIndexResponse": "models ModelIndex* 1",
    "RepositoryModelLoadRequest": "repository_name string 1, model_name string 2, parameters map 3",
    "RepositoryModelLoadResponse": "",
}  # fmt: skip

_Field = descriptor_pb2.FieldDescriptorProto


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="stylert_kserve.proto", package=PACKAGE, syntax="proto3")
    for name, fields in SCHEMA.items():
        message = file.message_type.add(name=name)
        for field in filter(None, fields.split(", ")):
            _add_field(message, *field.split(" "))
    return file


def _add_field(message: descriptor_pb2.DescriptorProto, name: str, kind: str, number: str) -> None:
    is_repeated = kind == "map" or kind.endswith("*")
    label = _Field.LABEL_REPEATED if is_repeated else _Field.LABEL_OPTIONAL
    field = message.field.add(name=name, number=int(number), label=label)
    base = kind.removesuffix("*")
    if base == "map":
        entry = message.nested_type.add(name=f"{name.capitalize()}Entry")
        entry.options.map_entry = True
        _add_field(entry, "key", "string", "1")
        _add_field(entry, "value", "InferParameter", "2")
        base = f"{message.name}.{entry.name}"
    if base in SCHEMA or "." in base:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{base}"
    else:
        field.type = getattr(_Field, f"TYPE_{base.upper()}")


_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(_file())

#: The class of each message, by its name.
MESSAGES: dict[str, Any] = {
    name: message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in SCHEMA
}
