/** A subject's name: what stands in the angle brackets of its placeholder. */
export const NAME = /^[A-Za-z][\w-]{0,63}$/
