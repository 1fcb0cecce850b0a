# SPDX-License-Identifier: GPL-2.0
"""What tests and the demo share: servers, stations, kernels. Stdlib only."""
