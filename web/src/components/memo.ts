import { Component, type ComponentType, type VNode } from "preact";

/** A component that is drawn anew only when one of its properties changes. */
export function memo<P extends object>(Inner: (props: P) => VNode): ComponentType<P> {
  return class extends Component<P> {
    override shouldComponentUpdate(next: P): boolean {
      const now = this.props as Record<string, unknown>;
      return Object.entries(next).some(([name, value]) => now[name] !== value);
    }
    override render(): VNode {
      return Inner(this.props as P);
    }
  };
}
