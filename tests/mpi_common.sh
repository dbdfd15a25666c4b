#!/bin/sh
# shellcheck disable=SC2154 # resbm is of run_common.sh
# For tests of engine: mpi: sourced, not run, after run_common.sh. Sets kinds to the MPIs that have a module and an mpirun here.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_hwloc_base_binding_policy=none
export OMP_WAIT_POLICY=passive
kinds=
for kind in openmpi mpich; do
    [ -r "$RB_BINARY_DIR/resbm-mpi-$kind.so" ] && command -v mpirun.$kind >/dev/null && kinds="$kinds $kind"
done
[ -n "$kinds" ] || { echo "skipped: no MPI here (libopenmpi-dev openmpi-bin libmpich-dev mpich)"; exit 77; }

# What an MPI itself keeps to the end is not ours to judge; sanitized programs are slow.
slowness=1
if sanitized; then
    slowness=6
    export ASAN_OPTIONS="${ASAN_OPTIONS:-}:detect_leaks=0"
fi

# ranks KIND N ...: the command by that MPI's mpirun.
ranks() { mpi=$1 n=$2; shift 2; timeout $((100 * slowness)) mpirun."$mpi" -n "$n" "$@"; }
