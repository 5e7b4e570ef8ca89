#!/usr/bin/env bash
# Makes OUT/backbones-SIZE and OUT/photos-SIZE from a folder of photographs, and measures them. What was interrupted goes
# on where it was when the same line is run again; what is finished is skipped.
#
#   checkpoints/make_photos.sh DATA 64 3 18 OUT   # a GPU: five objectives and the evaluator, 3 minutes each; denoiser 18
#   checkpoints/make_photos.sh DATA 32 60 120 OUT # a CPU: three objectives and the evaluator, an hour each; denoiser two
set -euo pipefail
[ $# -eq 5 ] || { echo "usage: $0 DATA 64|32 MINUTES_PER_NETWORK MINUTES_OF_DENOISER OUT" >&2; exit 2; }
data=$1 size=$2 network_minutes=$3 denoiser_minutes=$4 out=$5
backbones=$out/backbones-$size photos=$out/photos-$size

if [ "$size" = 64 ]; then
  objectives="simclr vicreg barlow byol"
  network="--width 40 --batch-size 512"
  denoiser="--channels 128 256 320 --attention_resolutions 16 8 --train_batch_size 256 --learning_rate 4e-4"
else
  objectives="simclr vicreg"
  network="--width 32 --stem-stride 1 --blocks 1 1 1 1 --batch-size 256 --learning-rate 2e-3 --early-size 24"
  denoiser="--channels 64 128 256 --coarse_size 8 --whiten_representations --optimizer muon --train_batch_size 128 --learning_rate 2e-3"
fi
pretrain="rcdm pretrain --data $data --resolution $size --max-minutes $network_minutes --resume --out $backbones/sources --compile $network"
plain="--crop 0.5 --jitter 0 --hue 0 --grey 0"  # strong views slow a supervised network down
$pretrain --objective $objectives --jitter 0.6 --hue 0.2
$pretrain --objective supervised $plain
$pretrain --objective supervised --name evaluator --seed 1 $plain

names=simclr/layer2
for objective in $objectives supervised; do names="$names $objective/backbone $objective/projector"; done
resume=
if compgen -G "$photos/checkpoint-*" > /dev/null; then resume="--resume_from_checkpoint latest"; fi
rcdm train --train_data_dir "$data" --sources_dir "$backbones/sources" --share_sources --sources $names --resolution "$size" \
  --patch_size 2 --random_flip --mixed_precision bf16 --compile $denoiser --max_train_minutes "$denoiser_minutes" $resume \
  --regressor_images 0 --output_dir "$photos"  # what leads draws is learnt by `evaluate`
rcdm evaluate "$photos" --data "$data" --evaluator "$backbones/evaluator/backbone"
