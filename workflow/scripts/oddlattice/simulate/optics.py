"""Electron optics: wavelength and interaction with matter."""

import numpy as np

PLANCK_C_EV_ANGSTROM = 12398.419843  # h c [eV Å]
REST_ENERGY_EV = 510998.95


def wavelength_angstrom(kv: float) -> float:
    """Relativistic electron wavelength [Å] at an acceleration voltage [kV]."""
    energy = kv * 1e3
    return float(PLANCK_C_EV_ANGSTROM / np.sqrt(energy * (2 * REST_ENERGY_EV + energy)))


def interaction_per_volt_angstrom(kv: float) -> float:
    """Phase per projected potential [rad / (V Å)]. Source: Kirkland (2010), eq. 5.6."""
    energy = kv * 1e3
    return float(
        2 * np.pi / (wavelength_angstrom(kv) * energy) * (REST_ENERGY_EV + energy) / (2 * REST_ENERGY_EV + energy)
    )
