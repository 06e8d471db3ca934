// Pictures as the network was trained on them: upright by EXIF, 8 bits a channel, color profiles left out.

export const LONGEST_SIDE = 8192; // some browsers give no larger canvas

/** What a person can do something about; its message is shown as it is. */
export class PictureError extends Error {}

const number = new Intl.NumberFormat("en");

/** Size of a picture before its pixels take any memory. */
async function sizeOf(blob, name) {
  const address = URL.createObjectURL(blob);
  const image = new Image();
  try {
    await new Promise((resolve, reject) => {
      image.onload = resolve;
      image.onerror = reject;
      image.src = address;
    });
  } catch {
    throw new PictureError(`${name} is no picture that this browser can read. Open a JPEG, PNG or WebP file.`);
  } finally {
    URL.revokeObjectURL(address);
  }
  const { naturalWidth: width, naturalHeight: height } = image;
  if (!width || !height) throw new PictureError(`${name} has no size of its own. Open a JPEG, PNG or WebP file.`);
  if (Math.max(width, height) > LONGEST_SIDE) {
    const sides = `${number.format(width)} × ${number.format(height)} pixels`;
    const most = number.format(LONGEST_SIDE);
    throw new PictureError(`${name} has ${sides}. This page takes up to ${most} a side: make it smaller first.`);
  }
  return { width, height };
}

/** Decode a file: its RGBA pixels, its size, and a bitmap to draw. */
export async function readPicture(blob, name = "This file") {
  await sizeOf(blob, name);
  try {
    const bitmap = await createImageBitmap(blob, {
      imageOrientation: "from-image",
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
    });
    return { ...pixelsOf(bitmap, bitmap.width, bitmap.height), bitmap };
  } catch (error) {
    throw new PictureError(`${name} cannot be decoded here (${error.message}). Try a smaller picture.`);
  }
}

/** RGBA pixels of anything that a canvas can draw, at the given size. */
export function pixelsOf(source, width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(source, 0, 0, width, height);
  return { pixels: new Uint8Array(context.getImageData(0, 0, width, height).data.buffer), width, height };
}

/** Open a camera as the source of a video element; the stream is to be stopped by the caller. */
export async function openCamera(video) {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new PictureError("This browser gives no camera to this page. A camera needs https, or localhost.");
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" }, audio: false });
  } catch (error) {
    throw new PictureError(CAMERA_ERRORS[error.name] ?? `The camera does not start: ${error.message}.`);
  }
  video.srcObject = stream;
  await video.play();
  return stream;
}

const CAMERA_ERRORS = {
  NotFoundError: "No camera was found. Connect one, or open a photograph.",
  NotAllowedError: "The browser does not allow this page to use the camera. Allow it in the address bar, or open a photograph.",
  NotReadableError: "The camera is in use by another program. Close that program, or open a photograph.",
};
