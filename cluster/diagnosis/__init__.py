"""Why a cluster or a job does not come up, from what the API server shows."""
