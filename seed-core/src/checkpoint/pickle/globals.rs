//! The written list of names that a plain checkpoint uses. None of them is ever called: each stands for a rule of
//! `machine` or `rebuild`, and any other name refuses the file.
//!
//! Follows `torch/_weights_only_unpickler.py` (`_get_allowed_globals`) of PyTorch 2; what differs: quantized, sparse,
//! nested and complex tensors and tensor subclasses are not read, and numpy's scalars and arrays, which PyTorch refuses,
//! are accepted as entries that are no weights (checkpoints of training hold them as losses and random states).

use safetensors::Dtype;

/// A name on the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    DefaultDict,
    Set,
    /// A class that is only mentioned, such as the `list` of `defaultdict(list)`.
    Type,
    Namespace,
    Size,
    Device,
    Dtype(Dtype),
    Storage(Dtype),
    UntypedStorage,
    RebuildTensor,
    RebuildTensorV2,
    RebuildTensorV3,
    RebuildParameter,
    RebuildParameterWithState,
    NumpyScalar,
    NumpyDtype,
    NumpyReconstruct,
    NumpyArray,
    /// `_codecs.encode`: how protocol 2 writes bytes.
    Encode,
}

impl Global {
    /// What the name is when it stands as a value.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Dtype(_) => "torch.dtype",
            Self::RebuildTensor
            | Self::RebuildTensorV2
            | Self::RebuildTensorV3
            | Self::RebuildParameter
            | Self::RebuildParameterWithState
            | Self::NumpyScalar
            | Self::NumpyReconstruct
            | Self::Encode => "function",
            _ => "type",
        }
    }
}

/// Longest name of the list, and of its modules: what is longer needs no look-up and is not repeated in a message.
pub(super) const LONGEST: usize = 64;

#[rustfmt::skip]
const GLOBALS: &[(&str, &str, Global)] = &[
    ("collections", "OrderedDict", Global::OrderedDict),
    ("collections", "defaultdict", Global::DefaultDict),
    // Protocol 2 writes Python 3's builtins under Python 2's name.
    ("__builtin__", "set", Global::Set),
    ("builtins", "set", Global::Set),
    ("__builtin__", "dict", Global::Type),
    ("builtins", "dict", Global::Type),
    ("__builtin__", "list", Global::Type),
    ("builtins", "list", Global::Type),
    ("__builtin__", "int", Global::Type),
    ("builtins", "int", Global::Type),
    ("__builtin__", "float", Global::Type),
    ("builtins", "float", Global::Type),
    ("argparse", "Namespace", Global::Namespace),
    ("_codecs", "encode", Global::Encode),
    ("torch._utils", "_rebuild_tensor", Global::RebuildTensor),
    ("torch._utils", "_rebuild_tensor_v2", Global::RebuildTensorV2),
    ("torch._utils", "_rebuild_tensor_v3", Global::RebuildTensorV3),
    ("torch._utils", "_rebuild_parameter", Global::RebuildParameter),
    ("torch._utils", "_rebuild_parameter_with_state", Global::RebuildParameterWithState),
    ("torch", "HalfStorage", Global::Storage(Dtype::F16)),
    ("torch", "BFloat16Storage", Global::Storage(Dtype::BF16)),
    ("torch", "FloatStorage", Global::Storage(Dtype::F32)),
    ("torch", "DoubleStorage", Global::Storage(Dtype::F64)),
    ("torch", "LongStorage", Global::Storage(Dtype::I64)),
    ("torch", "IntStorage", Global::Storage(Dtype::I32)),
    ("torch", "ShortStorage", Global::Storage(Dtype::I16)),
    ("torch", "CharStorage", Global::Storage(Dtype::I8)),
    ("torch", "ByteStorage", Global::Storage(Dtype::U8)),
    ("torch", "BoolStorage", Global::Storage(Dtype::BOOL)),
    ("torch", "UntypedStorage", Global::UntypedStorage),
    ("torch.storage", "UntypedStorage", Global::UntypedStorage),
    ("torch.storage", "_UntypedStorage", Global::UntypedStorage), // 1.11 and 1.12
    ("torch", "Size", Global::Size),
    ("torch", "device", Global::Device),
    ("torch", "float16", Global::Dtype(Dtype::F16)),
    ("torch", "bfloat16", Global::Dtype(Dtype::BF16)),
    ("torch", "float32", Global::Dtype(Dtype::F32)),
    ("torch", "float64", Global::Dtype(Dtype::F64)),
    ("torch", "float8_e4m3fn", Global::Dtype(Dtype::F8_E4M3)),
    ("torch", "float8_e5m2", Global::Dtype(Dtype::F8_E5M2)),
    ("torch", "int64", Global::Dtype(Dtype::I64)),
    ("torch", "int32", Global::Dtype(Dtype::I32)),
    ("torch", "int16", Global::Dtype(Dtype::I16)),
    ("torch", "int8", Global::Dtype(Dtype::I8)),
    ("torch", "uint64", Global::Dtype(Dtype::U64)),
    ("torch", "uint32", Global::Dtype(Dtype::U32)),
    ("torch", "uint16", Global::Dtype(Dtype::U16)),
    ("torch", "uint8", Global::Dtype(Dtype::U8)),
    ("torch", "bool", Global::Dtype(Dtype::BOOL)),
    ("numpy", "dtype", Global::NumpyDtype),
    ("numpy", "ndarray", Global::NumpyArray),
    ("numpy.core.multiarray", "scalar", Global::NumpyScalar),
    ("numpy._core.multiarray", "scalar", Global::NumpyScalar), // numpy 2
    ("numpy.core.multiarray", "_reconstruct", Global::NumpyReconstruct),
    ("numpy._core.multiarray", "_reconstruct", Global::NumpyReconstruct),
];

/// The global of a module and a name, if it is on the list.
pub(super) fn find(module: &str, name: &str) -> Option<Global> {
    GLOBALS.iter().find(|(m, n, _)| (*m, *n) == (module, name)).map(|&(_, _, global)| global)
}
