//! Memory map and CMRs to TDMRs, PAMT places and reserved areas. Pure: makes no SEAMCALL and touches no memory.
