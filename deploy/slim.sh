#!/bin/sh
# Delete what only compilers, debuggers and tests need from a folder of packages: slim.sh FOLDER
set -eu
cd "$1"
# Headers, a parser of C++ that TensorFlow asks for but does not import, Ray's Java.
rm -rf tensorflow/include clang ray/jars ray/cpp numpy/_core/include pyarrow/include
# Parts that nothing here imports, or that need packages which are not installed: Arrow over gRPC, a quantizer of StableHLO,
# the asynchronous twin of the client of Kubernetes, reinforcement learning and language models.
rm -rf pyarrow/*flight* tensorflow/compiler/mlir/stablehlo/*.so kubernetes/aio ray/rllib ray/llm
# Of the services that botocore describes, those with which one stores objects.
[ ! -d botocore/data ] || find botocore/data -mindepth 1 -maxdepth 1 -type d \
    ! -name s3 ! -name sts ! -name sso ! -name sso-oidc ! -name signin -exec rm -rf {} +
find . -name __pycache__ -prune -exec rm -rf {} + -o -type d -name tests -prune -exec rm -rf {} +
find . -type f \( -name '*.a' -o -name '*.h' -o -name '*.hpp' -o -name '*.c' -o -name '*.cc' -o -name '*.cpp' -o -name '*.pyx' \
    -o -name '*.pxd' -o -name '*.pxi' -o -name '*.pyi' -o -name '*.map' \) -delete
# Names of internal functions: a quarter of the largest library. Libraries that wheels were given with other paths to each
# other would no longer load.
find . -type f \( -name '*.so' -o -name '*.so.*' -o -name gcs_server -o -name raylet \) ! -path '*.libs/*' -exec sh -c '
    for file; do
        if readelf --dynamic "$file" 2> /dev/null | grep --quiet NEEDED && ! readelf --dynamic "$file" | grep --quiet "\.libs"; then
            strip --strip-unneeded "$file"
        fi
    done' - {} +
