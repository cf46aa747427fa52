#!/bin/bash
# The engines that have registered, as a value for --set, once there are as many as wanted:
#   cai run CONFIG --set "models.policy.endpoints=$(flows/pools/slurm/endpoints.sh 4)" --set models.policy.endpoint=null
set -euo pipefail

WANTED=${1:?usage: endpoints.sh NUMBER [SECONDS TO WAIT]}
LEFT=${2:-1800}
ENDPOINTS=${CAI_ENDPOINTS:-outputs/slurm/endpoints}

registered() { find "$ENDPOINTS" -type f ! -name '*.new' -exec cat {} + 2>/dev/null | sort -u; }

while [ "$(registered | wc -l)" -lt "$WANTED" ]; do
  if [ "$LEFT" -le 0 ]; then
    echo "only $(registered | wc -l) of $WANTED engines have registered in $ENDPOINTS; see their logs" >&2
    exit 1
  fi
  sleep 5
  LEFT=$((LEFT - 5))
done
echo "[$(registered | paste -s -d ,)]"
