"""How bytes move: `rma` over MPI, `local` in one process, `model` under the worst that MPI allows."""
