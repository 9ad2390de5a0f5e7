#!/bin/sh
# Delete what only compilers, debuggers and tests need from a folder of packages: slim.sh FOLDER
set -eu
cd "$1"
# Headers, a parser of C++ that TensorFlow asks for but does not import, and Ray's Java.
rm -rf tensorflow/include clang ray/jars
find . -name '*.a' -type f -delete
find . -type d \( -name __pycache__ -o -name tests \) -prune -exec rm -rf {} +
# Names of internal functions: a quarter of the largest library.
find tensorflow ray llvmlite pyarrow \( -name '*.so' -o -name '*.so.*' -o -name gcs_server -o -name raylet \) -type f \
    -exec strip --strip-unneeded {} +
