"""Where it runs: for now, Ray on this machine; profiles and Kubernetes move in next."""
